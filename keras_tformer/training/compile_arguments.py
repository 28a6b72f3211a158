"""What `compile` needs for each head, in one line."""

import keras

from keras_tformer.training.losses import MaskedCrossentropy
from keras_tformer.training.metrics import MacroF1, MaskedAccuracy, Perplexity

TASKS = (
    "masked_lm",
    "bert_pretrainer",
    "albert_pretrainer",
    "sequence_classifier",
    "regressor",
    "token_classifier",
    "span_classifier",
    "transformer",
    "causal_lm",
)


def compile_arguments(task, num_classes=None, label_smoothing=0.0):
    """Gives a task's losses and metrics, ready for `model.compile(optimizer, **...)`.

    Heads return logits; labels are integers, weights optional. Positions with weight 0
    or label -100 count neither in the loss nor in a metric.

    | task | labels | loss |
    | --- | --- | --- |
    | masked_lm | `{"masked_lm": (B, P)}` | mean over the predicted tokens |
    | bert_pretrainer | and `"next_sentence": (B,)` | sum of both means |
    | albert_pretrainer | and `"sentence_order": (B,)` | sum of both means |
    | sequence_classifier | `(B,)` | mean over the sequences |
    | regressor | `(B,)` float | mean squared error |
    | token_classifier | `(B, T)` | mean over the labelled tokens |
    | span_classifier | `{"start": (B,), "end": (B,)}` | mean of both ends |
    | transformer, causal_lm | `(B, T)` | mean over the target tokens |

    Devlin et al. 2019, appendix A.2: "The training loss is the sum of the mean masked
    LM likelihood and the mean next sentence prediction likelihood".

    Args:
        task: str, one of the first column.
        num_classes: int, or None. Adds macro F1 for `sequence_classifier` and
            `token_classifier`.
        label_smoothing: float in [0, 1). For `transformer`, `causal_lm` and the
            classifiers of sequences and tokens.

    Returns:
        A new dict with `"loss"`, `"weighted_metrics"` and, where outputs do not weigh
        the same, `"loss_weights"`.

    Raises:
        ValueError: if the task is unknown.

    Example:
        >>> inputs = keras.Input((7,))
        >>> model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        >>> arguments = compile_arguments("sequence_classifier", num_classes=3)
        >>> model.compile("adam", **arguments)
    """
    classifier_metrics = [MaskedAccuracy()]
    if num_classes is not None and num_classes > 1:
        classifier_metrics.append(MacroF1(num_classes))

    match task:
        case "masked_lm":
            return {
                "loss": {"masked_lm": MaskedCrossentropy()},
                "weighted_metrics": {"masked_lm": [MaskedAccuracy()]},
            }
        case "bert_pretrainer" | "albert_pretrainer":
            order = "next_sentence" if task == "bert_pretrainer" else "sentence_order"
            return {
                "loss": {
                    "masked_lm": MaskedCrossentropy(),
                    order: MaskedCrossentropy(),
                },
                "weighted_metrics": {
                    "masked_lm": [MaskedAccuracy()],
                    order: [MaskedAccuracy()],
                },
            }
        case "sequence_classifier" | "token_classifier":
            return {
                "loss": MaskedCrossentropy(label_smoothing),
                "weighted_metrics": classifier_metrics,
            }
        case "regressor":
            return {
                "loss": keras.losses.MeanSquaredError(),
                "weighted_metrics": [keras.metrics.MeanAbsoluteError()],
            }
        case "span_classifier":
            return {
                "loss": {"start": MaskedCrossentropy(), "end": MaskedCrossentropy()},
                "loss_weights": {"start": 0.5, "end": 0.5},
                "weighted_metrics": {
                    "start": [MaskedAccuracy()],
                    "end": [MaskedAccuracy()],
                },
            }
        case "transformer" | "causal_lm":
            return {
                "loss": MaskedCrossentropy(label_smoothing),
                "weighted_metrics": [MaskedAccuracy(), Perplexity()],
            }
    raise ValueError(
        f"Received task={task!r}. Expected one of {', '.join(TASKS)}. Use the name of "
        "the function of keras_tformer.models that made the head."
    )
