"""A student whose tokens stand to each other as the teacher's do."""

import keras
from keras import ops

from keras_tformer.training.attention_distillation import relations
from keras_tformer.training.hidden_state_distillation import token_weights
from keras_tformer.training.losses import weighted_mean
from keras_tformer.training.soft_target_distillation import divergence

_FEATURES = {"query": "queries", "key": "keys", "value": "values"}


@keras.saving.register_keras_serializable(package="keras_tformer")
class RelationDistillation(keras.layers.Layer):
    """Pulls how tokens relate to each other in one layer towards the teacher's.

    A relation is `softmax(A B^T / sqrt(K))` of queries, keys or values A and B, over
    the real tokens; the loss is the teacher's Kullback-Leibler divergence from the
    student's, averaged over heads and real tokens and added up over the relations.
    Layers and widths of the student are free, and only one layer is matched, so that
    no layer map is needed. Computed in float32.

    - MiniLM (Wang et al. 2020, section 3, equations 5 to 7): `relations=("query-key",
      "value-value")`, the last layers, the same number of heads in both.
    - MiniLMv2 (Wang et al. 2021, section 3, equations 3 to 6): the default relations
      and `num_relation_heads`, into which the heads of both are split anew; for a large
      teacher an upper middle layer (21 of 24) as `teacher_call`.

    Args:
        relations: names of two of "query", "key" and "value" with a hyphen between.
        num_relation_heads: int that divides the widths of both models' attention, or
            None for the heads that they have, which then must be as many.
        teacher_call, student_call: int, the calls of blocks to match, from 1; None for
            the last.

    Call arguments:
        teacher, student: dicts that hold `"queries"`, `"keys"` and `"values"`, as far
            as needed: dicts from calls to `(B, T, H, K)` tensors.
        padding_mask: `(B, T)` tensor, 1 for the tokens that count, or None.
        labels: not used.
        sample_weight: `(B,)` tensor, or None.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: if a relation is unknown, the numbers of heads differ without
            `num_relation_heads`, or it does not divide a width.

    Example:
        >>> loss = RelationDistillation(("query-key", "value-value"))
        >>> loss.features(num_teacher_calls=4, num_student_calls=2)[1]
        {'queries': [2], 'keys': [2], 'values': [2]}
    """

    def __init__(
        self,
        relations=("query-query", "key-key", "value-value"),
        num_relation_heads=None,
        teacher_call=None,
        student_call=None,
        name="relations",
    ):
        super().__init__(name=name, dtype="float32", autocast=False)
        for relation in relations:
            if len(set(parts := relation.split("-")) - set(_FEATURES)) or (
                len(parts) != 2
            ):
                raise ValueError(
                    f"Received the relation {relation!r}. Expected two of query, key "
                    "and value with a hyphen between, such as 'value-value'."
                )
        self.relations = list(relations)
        self.num_relation_heads = num_relation_heads
        self.teacher_call = teacher_call
        self.student_call = student_call

    def features(self, num_teacher_calls, num_student_calls):
        """Says which intermediate outputs of teacher and student are needed."""
        self.calls = (
            str(self.teacher_call or num_teacher_calls),
            str(self.student_call or num_student_calls),
        )
        parts = {part for relation in self.relations for part in relation.split("-")}
        names = [name for part, name in _FEATURES.items() if part in parts]
        return tuple({name: [int(call)] for name in names} for call in self.calls)

    def build(self, teacher_shape, student_shape):
        heads = []
        for call, shapes in zip(
            self.calls, (teacher_shape, student_shape), strict=True
        ):
            name = _FEATURES[self.relations[0].split("-")[0]]
            num_heads, key_dim = shapes[name][call][2:]
            heads.append(num_heads)
            if self.num_relation_heads and num_heads * key_dim % (
                self.num_relation_heads
            ):
                raise ValueError(
                    f"Received num_relation_heads={self.num_relation_heads} for "
                    f"attention of width {num_heads * key_dim}. Expected a divisor of "
                    "it, for teacher and student."
                )
        if self.num_relation_heads is None and heads[0] != heads[1]:
            raise ValueError(
                f"Received {heads[0]} attention heads from the teacher and {heads[1]} "
                "from the student. Expected the same number, or `num_relation_heads`, "
                "a number that divides both widths."
            )
        self.built = True

    def call(
        self, teacher, student, padding_mask=None, labels=None, sample_weight=None
    ):
        total = 0.0
        for relation in self.relations:
            targets = self._relation(teacher, self.calls[0], relation, padding_mask)
            predicted = self._relation(student, self.calls[1], relation, padding_mask)
            values = ops.mean(divergence(targets, predicted), axis=1)  # (B, T)
            weights = token_weights(values, padding_mask, sample_weight)
            total += weighted_mean(values, weights)
        return total

    def _relation(self, outputs, call, relation, padding_mask):
        """Gives the logits of a relation, `(B, H, T, T)`, padding far below."""
        first, second = (
            self._split(ops.cast(outputs[_FEATURES[part]][call], "float32"))
            for part in relation.split("-")
        )
        logits = relations(first, second)
        if padding_mask is None:
            return logits
        outside = (1 - ops.cast(padding_mask, "float32")) * -1e9  # (B, T)
        return logits + ops.expand_dims(outside, (1, 2))

    def _split(self, heads):
        if self.num_relation_heads is None:
            return heads
        key_dim = heads.shape[2] * heads.shape[3] // self.num_relation_heads
        shape = (-1, ops.shape(heads)[1], self.num_relation_heads, key_dim)
        return ops.reshape(heads, shape)  # (B, T, R, K)

    def get_config(self):
        return {
            "relations": self.relations,
            "num_relation_heads": self.num_relation_heads,
            "teacher_call": self.teacher_call,
            "student_call": self.student_call,
            "name": self.name,
        }
