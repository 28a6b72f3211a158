"""A decoder that is called for one new token at a time."""

import math

from keras import ops

from keras_tformer.models.cached_block import heads_first, step_block

CAUSAL_INPUTS = {"token_ids", "padding_mask"}
PAIR_INPUTS = {
    "encoder_token_ids",
    "encoder_padding_mask",
    "decoder_token_ids",
    "decoder_padding_mask",
}


class CachedDecoder:
    """Calls the layers of a model for one new token, with the keys and values so far.

    Nothing that is cached is ever moved. Several hypotheses of one text (beams) lie
    side by side as if they were positions of one sequence: step `t` writes the keys of
    its N tokens into slots `P + t * N` onward, after the P slots of the prompt that all
    share, and a mask says which slots are a hypothesis' own past. Reordering the
    hypotheses reorders that table of small numbers; the caches, the encoder's included,
    stay where they are.

    Args:
        model: a `keras.Model` from `transformer` or `causal_lm`.

    Raises:
        ValueError: if the model is another one.

    Example:
        >>> from keras_tformer.models import causal_lm
        >>> decoder = CachedDecoder(causal_lm(
        ...     vocabulary_size=31, num_layers=2, num_heads=2, hidden_dim=14,
        ...     intermediate_dim=11, max_sequence_length=7,
        ... ))
        >>> prompt, lengths = np.array([[3, 5, 2]]), np.array([3])
        >>> memory, caches, x = decoder.start(prompt, lengths, num_steps=4)
        >>> caches, x = decoder.step(memory, caches, np.array([[7]]), 0)
        >>> tuple(decoder.logits(memory, x).shape)
        (1, 1, 31)
    """

    def __init__(self, model):
        layers = {layer.name: layer for layer in getattr(model, "layers", ())}
        # A prompt is one document, also where the model learned from packed ones.
        inputs = {x.name for x in getattr(model, "inputs", ())} - {"document_ids"}
        self.has_encoder = inputs == PAIR_INPUTS
        if "decoder_layer_0" not in layers or inputs not in (
            PAIR_INPUTS,
            CAUSAL_INPUTS,
        ):
            raise ValueError(
                "`generate` needs a model from `transformer` or `causal_lm` whose "
                "blocks are whole. Received: a model with inputs "
                f"{sorted(inputs)} and layers {sorted(layers)[:5]}. Generate before "
                "the model is laid flat or quantized."
            )

        def numbered(prefix):
            names = [name for name in layers if name.startswith(prefix)]
            return [layers[f"{prefix}{index}"] for index in range(len(names))]

        def either(*names):
            return next((layers[name] for name in names if name in layers), None)

        self.blocks = numbered("decoder_layer_")
        self.encoder_blocks = numbered("encoder_layer_")
        self.table = layers["token_embedding"]
        self.source_table = layers.get("source_token_embedding", self.table)
        self.positions = either(
            "position_embedding",
            "decoder_position_embedding",
            "decoder_position_encoding",
        )
        self.source_positions = either(
            "encoder_position_embedding", "encoder_position_encoding"
        )
        self.norm = either("final_norm", "decoder_norm")
        self.source_norm = either("encoder_norm")
        self.output_bias = either("output_bias")
        self.hidden_dim = self.table.embedding_dim
        self.scale = math.sqrt(self.hidden_dim) if self.has_encoder else 1.0

    @property
    def vocabulary_size(self):
        """Number of tokens V that can be generated."""
        return self.table.vocabulary_size

    @property
    def source_vocabulary_size(self):
        """Number of tokens that a source or a prompt may consist of."""
        return self.source_table.vocabulary_size

    @property
    def max_sequence_length(self):
        """Number of learned positions of the decoder; None where any length will do."""
        return getattr(self.positions, "max_sequence_length", None)

    @property
    def max_source_length(self):
        """Number of learned positions of the encoder; None where any length will do."""
        return getattr(self.source_positions, "max_sequence_length", None)

    def start(
        self,
        prompt_ids,
        prompt_lengths,
        source_ids=None,
        source_mask=None,
        num_steps=1,
        num_beams=1,
    ):
        """Reads source and prompt at once and makes room for what will be generated.

        Args:
            prompt_ids: `(B, P)` integers, padded on the right.
            prompt_lengths: `(B,)` integers, number of tokens of each prompt.
            source_ids, source_mask: `(B, S)` integers, where there is an encoder.
            num_steps: int, number of steps G that there is room for.
            num_beams: int, number of hypotheses N of each text.

        Returns:
            What every step reads (a dict), the self-attention caches (a list of pairs
            of keys `(B, H, K, P + G * N)` and values `(B, H, P + G * N, K)`) and the
            last state of each prompt `(B, 1, D)`.
        """
        batch, prompt_length = ops.shape(prompt_ids)
        prompt_lengths = ops.convert_to_tensor(prompt_lengths, "int32")
        slots = ops.arange(prompt_length, dtype="int32")
        prompt_mask = ops.cast(slots < ops.expand_dims(prompt_lengths, 1), "float32")
        memory = {
            "prompt_mask": prompt_mask,  # (B, P)
            "positions": self.position_vectors(
                prompt_length, prompt_lengths, num_steps
            ),
            "output_kernel": self.output_kernel(),
        }
        cross_caches = [None] * len(self.blocks)
        if self.has_encoder:
            encoded = self.encode(source_ids, source_mask)
            cross_caches = [x.cross_attention.project(encoded) for x in self.blocks]
            memory["cross_caches"] = [heads_first(x) for x in cross_caches]
            memory["source_mask"] = source_mask

        x = self._embed(self.table, prompt_ids)
        x = x + self.positions(x)  # (B, P, D)
        room = num_steps * num_beams
        # One slot of the room comes along: Keras warns of a softmax over one number.
        mask = ops.pad(prompt_mask, ((0, 0), (0, 1)))  # (B, P + 1)
        caches = []
        for block, cross_cache in zip(self.blocks, cross_caches, strict=True):
            attention = block.self_attention
            heads = attention.num_heads
            width = attention.query_dense.kernel.shape[-1]
            empty = ops.zeros(
                (batch, prompt_length + 1, heads, width // heads),
                dtype=attention.compute_dtype,
            )
            source = {}
            if cross_cache is not None:
                source["cross_attention_cache"] = cross_cache
                source["encoder_padding_mask"] = source_mask
            x, cache = block(
                x,
                padding_mask=mask,
                self_attention_cache=(empty, empty),
                cache_index=0,
                **source,
            )
            keys, values = heads_first(cache)
            keys = ops.pad(keys, ((0, 0), (0, 0), (0, 0), (0, room - 1)))
            values = ops.pad(values, ((0, 0), (0, 0), (0, room - 1), (0, 0)))
            caches.append((keys, values))
        rows = ops.reshape(x, (batch * prompt_length, self.hidden_dim))
        ends = ops.arange(batch, dtype="int32") * prompt_length + prompt_lengths - 1
        last = ops.expand_dims(ops.take(rows, ends, axis=0), 1)  # (B, 1, D)
        return memory, caches, last

    def with_room(self, memory, caches, num_steps, num_beams=1):
        """Cuts caches, or makes them longer, so that they hold so many steps.

        Args:
            memory, caches: what `start` or `step` returned.
            num_steps: int, number of steps that there is room for.
            num_beams: int, number of hypotheses N of each text.

        Returns:
            The caches.
        """
        slots = memory["prompt_mask"].shape[1] + num_steps * num_beams
        found = []
        for keys, values in caches:
            more = max(slots - keys.shape[-1], 0)
            keys = ops.pad(keys, ((0, 0), (0, 0), (0, 0), (0, more)))
            values = ops.pad(values, ((0, 0), (0, 0), (0, more), (0, 0)))
            found.append((keys[..., :slots], values[..., :slots, :]))
        return found

    def step(self, memory, caches, token_ids, step, ancestry=None):
        """Reads one more token of every hypothesis.

        Args:
            memory, caches: what `start` and the step before returned.
            token_ids: `(B, N)` integers.
            step: int or scalar tensor, how many tokens were generated before these.
            ancestry: `(B, N, G)` integers, which of the N slots of a step holds the
                token of a hypothesis; -1 for steps to come. Not needed for N = 1.

        Returns:
            The caches and the states `(B, N, D)`.
        """
        batch, num_beams = ops.shape(token_ids)[0], token_ids.shape[1]
        prompt_length = memory["prompt_mask"].shape[1]
        num_steps = (caches[0][0].shape[-1] - prompt_length) // num_beams
        rows = ops.shape(memory["positions"])[0]
        step = ops.cast(step, "int32")
        position = ops.slice(
            memory["positions"], (0, step, 0), (rows, 1, self.hidden_dim)
        )
        x = self._embed(self.table, token_ids) + position  # (B, N, D)

        steps = ops.arange(num_steps, dtype="int32")
        if num_beams == 1:
            own = ops.broadcast_to(steps <= step, (batch, 1, num_steps))
        else:
            beams = ops.arange(num_beams, dtype="int32")
            ancestry = ops.expand_dims(ancestry[..., :num_steps], -1)
            own = ops.equal(ancestry, beams)  # (B, N, G, N)
            own = ops.reshape(own, (batch, num_beams, num_steps * num_beams))
        prompt_mask = ops.broadcast_to(
            ops.expand_dims(memory["prompt_mask"], 1),
            (batch, num_beams, prompt_length),
        )
        visible = ops.concatenate([prompt_mask, ops.cast(own, "float32")], axis=-1)
        visible = ops.expand_dims(visible, 1)  # (B, 1, N, P + G * N)
        source = [(None, None)] * len(self.blocks)
        if self.has_encoder:
            kept = ops.cast(memory["source_mask"], "float32")
            kept = ops.expand_dims(ops.expand_dims(kept, 1), 1)  # (B, 1, 1, S)
            source = [
                (cache, (1 - kept) * block.cross_attention.mask_value)
                for cache, block in zip(
                    memory["cross_caches"], self.blocks, strict=True
                )
            ]

        slot = prompt_length + step * num_beams
        updated = []
        for block, cache, (cross_cache, cross_bias) in zip(
            self.blocks, caches, source, strict=True
        ):
            bias = (1 - visible) * block.self_attention.mask_value
            x, cache = step_block(block, x, cache, slot, bias, cross_cache, cross_bias)
            updated.append(cache)
        return updated, x

    def logits(self, memory, x):
        """Scores every token of the vocabulary: `(B, N, D)` to float32 `(B, N, V)`."""
        if self.norm is not None:
            x = self.norm(x)
        rows = ops.reshape(x, (-1, self.hidden_dim))
        logits = ops.matmul(rows, memory["output_kernel"])  # (B * N, V)
        if self.output_bias is not None:
            logits = self.output_bias(logits)
        logits = ops.cast(logits, "float32")
        return ops.reshape(logits, (-1, x.shape[1], self.vocabulary_size))  # (B, N, V)

    def output_kernel(self):
        """The tied table, turned round once: XLA would do it again in every step."""
        table = ops.cast(self.table.embeddings, self.table.compute_dtype)
        return ops.transpose(table)  # (D, V)

    def encode(self, token_ids, padding_mask):
        """Reads sources, `(B, S)` ids and mask; the states `(B, S, D)` come back."""
        x = self._embed(self.source_table, token_ids)
        x = x + self.source_positions(x)
        for block in self.encoder_blocks:
            x = block(x, padding_mask=padding_mask)
        return x if self.source_norm is None else self.source_norm(x)  # (B, S, D)

    def _embed(self, table, token_ids):
        x = table(token_ids)
        return x * self.scale if self.scale != 1 else x

    def position_vectors(self, prompt_length, prompt_lengths, num_steps):
        """Returns the position vectors of all steps, `(1 or B, G, D)`."""
        if self.max_sequence_length is None:  # Sines: here all prompts are as long.
            empty = ops.zeros((1, num_steps, self.hidden_dim))
            return self.positions(empty, start_index=prompt_length)
        # Each text goes on where its own prompt ends. Steps that none will take are
        # clipped, because not every backend forgives a row outside of the table.
        positions = ops.expand_dims(prompt_lengths, 1) + ops.arange(
            num_steps, dtype="int32"
        )
        positions = ops.minimum(positions, self.max_sequence_length - 1)
        rows = ops.take(self.positions.embeddings, positions, axis=0)  # (B, G, D)
        return ops.cast(rows, self.positions.compute_dtype)
