"""What `finetune_glue.py` scores beside accuracy (Wang et al. 2019, table 1)."""

import keras_tformer as kt


def more_metrics(task, names):
    """What the task is scored by beside accuracy; the last one picks the epoch."""
    if task == "cola":
        return [kt.training.MatthewsCorrelation(len(names))]
    if task in ("mrpc", "qqp"):  # of the pairs that say the same
        return [kt.training.MicroF1(len(names), classes=[names.index("1")], name="f1")]
    return []


def correlations(threshold):
    def measure(labels, outputs):
        numbers = outputs[:, 0]
        pearson = kt.training.PearsonCorrelation()
        pearson.update_state(labels, numbers)
        scores = {
            "pearson": float(pearson.result()),
            "spearman": kt.training.spearman_correlation(labels, numbers),
        }
        if threshold is not None:
            is_right = (labels >= threshold) == (numbers >= threshold)
            scores["accuracy_at_threshold"] = float(is_right.mean())
        return scores

    return measure
