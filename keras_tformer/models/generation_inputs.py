"""What `generate` takes: numbers in their ranges, sources as arrays."""

import numpy as np


def round_up(number, multiple):
    """Returns the smallest multiple that is not below `number`."""
    return int(-(-number // multiple) * multiple)


def require_numbers(values):
    """Raises `ValueError` unless the arguments of `generate` fit, each and together.

    Args:
        values: dict from the names of the arguments to what came.

    Raises:
        ValueError: with what came, what was expected and how to mend it.
    """

    def require(fits, name, expected, remedy):
        if not fits:
            raise ValueError(
                f"`generate` received an invalid value for argument `{name}`. Expected "
                f"{expected}. Received: {name}={values[name]!r}. {remedy}"
            )

    def is_number(name, kind=(int, float)):
        value = values[name]
        return isinstance(value, (kind, np.integer)) and not isinstance(value, bool)

    for name in ("max_length", "num_beams", "top_k", "num_return_sequences"):
        require(
            is_number(name, int) and values[name] >= 1,
            name,
            "a positive integer",
            "Pass a whole number of 1 or more.",
        )
    require(
        is_number("min_length", int) and 0 <= values["min_length"],
        "min_length",
        "an integer of 0 or more",
        "Pass 0 for no minimum.",
    )
    require(
        values["sampler"] in ("greedy", "top_k", "top_p"),
        "sampler",
        "'greedy', 'top_k' or 'top_p'",
        "Pass 'top_p' with top_p=1.0 to draw from all tokens.",
    )
    for name in ("temperature", "repetition_penalty"):
        require(
            is_number(name) and 0 < values[name] < np.inf,
            name,
            "a number above 0",
            "Pass 1.0 for no effect.",
        )
    require(
        is_number("top_p") and 0 < values["top_p"] <= 1,
        "top_p",
        "a number in (0, 1]",
        "Pass 1.0 to draw from all tokens.",
    )
    require(
        is_number("length_penalty"),
        "length_penalty",
        "a number",
        "Pass 0.0 for no effect.",
    )
    require(
        is_number("length_offset") and values["length_offset"] >= 0,
        "length_offset",
        "a number of 0 or more",
        "Pass 5.0 for GNMT's penalty, 0.0 for Hugging Face's.",
    )
    require(
        values["early_stopping"] in (True, False, "never"),
        "early_stopping",
        "True, False or 'never'",
        "Pass True to end with the first `num_beams` texts that end.",
    )
    require(
        values["callback"] is None or callable(values["callback"]),
        "callback",
        "a function or None",
        "Pass a function of one argument.",
    )
    draws = values["sampler"] != "greedy"
    require(
        not draws or values["num_beams"] == 1,
        "num_beams",
        f"1 with sampler={values['sampler']!r}",
        "Pass sampler='greedy' for beam search, or num_beams=1 to draw.",
    )
    require(
        draws or values["temperature"] == 1,
        "temperature",
        "1.0 with sampler='greedy', where it changes nothing",
        "Pass sampler='top_k' or 'top_p' to draw.",
    )
    require(
        values["num_return_sequences"] <= values["num_beams"],
        "num_return_sequences",
        f"at most num_beams={values['num_beams']}",
        "Pass more beams.",
    )
    require(
        values["callback"] is None or values["num_beams"] == 1,
        "callback",
        "None with beam search, whose tokens are known only at the end",
        "Pass num_beams=1.",
    )
    require(
        values["min_length"] <= values["max_length"],
        "min_length",
        f"at most max_length={values['max_length']}",
        "Pass a larger `max_length`.",
    )


def require_ids(values, vocabulary_size):
    """Raises `ValueError` unless the token ids among the arguments are in the table.

    Args:
        values: dict from the names of the arguments to what came.
        vocabulary_size: int, number of tokens V that can be generated.

    Raises:
        ValueError: with what came, what was expected and how to mend it.
    """
    forced = values["forced_token_ids"] or {}
    named = {
        name: [] if values[name] is None else [values[name]]
        for name in ("start_token_id", "end_token_id", "pad_token_id")
    }
    named["forbidden_token_ids"] = values["forbidden_token_ids"]
    if not isinstance(forced, dict) or any(
        not isinstance(step, (int, np.integer)) or step < 0 for step in forced
    ):
        raise ValueError(
            "`generate` expects `forced_token_ids` as a dict from positions among the "
            f"generated tokens to token ids. Received: {forced!r}. The first generated "
            "token has position 0."
        )
    named["forced_token_ids"] = list(forced.values())
    for name, token_ids in named.items():
        for token_id in token_ids:
            is_id = isinstance(token_id, (int, np.integer))
            if not is_id or not 0 <= token_id < vocabulary_size:
                raise ValueError(
                    f"`generate` received an invalid token id in `{name}`. Expected "
                    f"integers in [0, {vocabulary_size}). Received: {token_id!r}. Use "
                    "the tokenizer that the model was built for."
                )
    for step, token_id in forced.items():
        if token_id in named["forbidden_token_ids"]:
            raise ValueError(
                "`generate` cannot write a token that is forbidden. Received: "
                f"forced_token_ids={forced!r}, of which {token_id} (at {step}) is "
                "among the `forbidden_token_ids`. Take it out of one of them."
            )
    if len(set(named["forbidden_token_ids"])) >= vocabulary_size:
        raise ValueError(
            "`generate` cannot choose where every token is forbidden. Received: "
            f"{len(set(named['forbidden_token_ids']))} forbidden tokens of "
            f"{vocabulary_size}. Leave at least one."
        )


def require_end_after_minimum(
    forced_token_ids, end_token_id, min_length, shortest_prompt
):
    """Raises `ValueError` where the end is forced before `min_length` allows it.

    Args:
        forced_token_ids, end_token_id, min_length: see `generate`.
        shortest_prompt: int, tokens of the shortest prompt.

    Raises:
        ValueError: with what came, what was expected and how to mend it.
    """
    for step, token_id in (forced_token_ids or {}).items():
        length = shortest_prompt + step + 1
        if token_id == end_token_id and length < min_length:
            raise ValueError(
                "`generate` cannot end a text before its minimum. Received: "
                f"forced_token_ids={forced_token_ids!r}, which ends a text with "
                f"{length} tokens, and min_length={min_length}. Force the end later, "
                "or lower `min_length`."
            )


def read_sources(source, decoder):
    """Returns the ids and the mask of what is translated, `(B, S)` with S rounded up.

    Args:
        source: see `generate`.
        decoder: the `CachedDecoder` of a `transformer`.

    Returns:
        A pair of int32 arrays.

    Raises:
        ValueError: if a source is empty, too long or has unknown ids.
    """
    ids, mask = _read(source, "encoder_token_ids", "encoder_padding_mask")
    _refuse(ids, mask, decoder.source_vocabulary_size)
    longest = decoder.max_source_length
    used = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    if longest is not None and used > longest:
        raise ValueError(
            "`generate` received a source that is longer than the positions of the "
            f"model. Expected at most {longest} tokens. Received: {used}. Truncate the "
            "source."
        )
    length = round_up(used, 16)
    length = length if longest is None else min(length, longest)
    more = ((0, 0), (0, max(0, length - ids.shape[1])))
    ids = np.where(mask == 1, ids, 0)  # Padding may hold any number.
    return tuple(np.pad(x, more)[:, :length].astype("int32") for x in (ids, mask))


def read_prompts(source, decoder):
    """Returns what is continued as a list of lists, padding taken out.

    Args:
        source: see `generate`.
        decoder: the `CachedDecoder` of a `causal_lm`.

    Returns:
        A list of B lists of ints.

    Raises:
        ValueError: if a prompt is empty or has unknown ids.
    """
    ids, mask = _read(source, "token_ids", "padding_mask")
    _refuse(ids, mask, decoder.source_vocabulary_size)
    return [row[keep == 1].tolist() for row, keep in zip(ids, mask, strict=True)]


def _read(source, ids_name, mask_name):
    if isinstance(source, dict):
        if not {ids_name} <= set(source) <= {ids_name, mask_name}:
            raise ValueError(
                f"`generate` expects the keys {ids_name!r} and {mask_name!r} for this "
                f"model. Received: {sorted(source)}. Rename what you have."
            )
        ids = _as_numpy(source[ids_name])
        mask = source.get(mask_name)
        mask = np.ones(ids.shape, "int32") if mask is None else _as_numpy(mask)
        mask = mask.astype("int32")
    elif isinstance(source, (list, tuple)) and _is_ragged(source):
        rows = [np.asarray(row).reshape(-1) for row in source]
        longest = max(map(len, rows), default=0)
        ids = np.zeros((len(rows), longest), "int64")
        mask = np.zeros((len(rows), longest), "int32")
        for index, row in enumerate(rows):
            if len(row):
                _require_whole(row)
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
    else:
        ids = _as_numpy(source)
        mask = np.ones(ids.shape, "int32")
    if ids.ndim != 2 or ids.shape != mask.shape or not len(ids):
        raise ValueError(
            "`generate` expects token ids as one row for each text, and a mask of the "
            f"same shape. Received: ids of shape {ids.shape}, mask of shape "
            f"{mask.shape}. Put a single text into a list of its own."
        )
    if ids.shape[1]:
        _require_whole(ids)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"`generate` expects a mask of 0 and 1. Received: {mask.min()} to "
            f"{mask.max()}. Pass 1 for tokens and 0 for padding."
        )
    return ids, mask


def _refuse(ids, mask, vocabulary_size):
    empty = np.flatnonzero(~(mask == 1).any(axis=1))
    if len(empty):
        raise ValueError(
            "`generate` needs at least one token in every row. Received: row "
            f"{empty[0]} without any. Leave empty texts out, or start them with a "
            "token that marks a beginning."
        )
    wrong = ids[(mask == 1) & ((ids < 0) | (ids >= vocabulary_size))]
    if len(wrong):
        raise ValueError(
            "`generate` received a token id outside of the vocabulary. Expected ids in "
            f"[0, {vocabulary_size}). Received: {wrong[0]}. Use the tokenizer that the "
            "model was built for."
        )


def _require_whole(ids):
    if not np.issubdtype(np.asarray(ids).dtype, np.integer):
        raise ValueError(
            "`generate` expects token ids as integers. Received: an array of "
            f"{np.asarray(ids).dtype}. Tokenize the text first."
        )


def _is_ragged(rows):
    return all(np.ndim(row) == 1 for row in rows) and len(set(map(len, rows))) > 1


def _as_numpy(x):
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
