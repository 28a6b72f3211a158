"""A folder from the Hugging Face hub."""

import pathlib

_SMALL_FILES = [
    "config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
]
_SAFETENSORS = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
]
_PICKLES = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
]


def download_huggingface(repo_id, revision=None, token=None):
    """Downloads a repository of the Hugging Face hub, or finds it in the cache.

    Only configuration, tokenizer and weights; `.bin` files only where there are no
    safetensors. Cache, offline mode (`HF_HUB_OFFLINE=1`) and login are those of
    `huggingface_hub`.

    Args:
        repo_id: name of the repository, such as `"google-bert/bert-base-uncased"`.
        revision: branch, tag or commit; the main branch where it is None.
        token: access token, for private repositories.

    Returns:
        The path of the folder, for `load_huggingface` and the tokenizer's loader.

    Raises:
        ValueError: if the repository is neither a folder, nor in the cache, nor can be
            downloaded.
        ImportError: if `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{repo_id!r} is no folder, so it is looked for on the Hugging Face hub, "
            'which needs huggingface_hub: `pip install "keras_tformer[hub]"`. For a '
            "folder, check its path."
        ) from error

    def fetch(patterns):
        try:
            return snapshot_download(
                repo_id, revision=revision, token=token, allow_patterns=patterns
            )
        except Exception as error:  # Many kinds, of several libraries.
            said = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(
                f"{repo_id!r} is no folder here, and could not be fetched from the "
                f"Hugging Face hub (revision {revision or 'main'!r}). Expected a "
                "folder or the name of a repository. Check the name, the connection "
                "and the token; offline, only what is in the cache is found. It says: "
                f"{said}"
            ) from error

    folder = fetch(_SMALL_FILES + _SAFETENSORS)
    if not any(pathlib.Path(folder, name).is_file() for name in _SAFETENSORS[:2]):
        folder = fetch(_SMALL_FILES + _PICKLES)
    return folder
