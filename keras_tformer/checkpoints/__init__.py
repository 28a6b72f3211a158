"""Published weights become models of ours, and go back: heads included.

Hugging Face's folders, the checkpoints of Google's research code, and KerasHub. A
library of somebody else's is imported by the function that needs it.
"""

from keras_tformer.checkpoints.download_huggingface import download_huggingface
from keras_tformer.checkpoints.keras_hub import from_keras_hub, to_keras_hub
from keras_tformer.checkpoints.load_huggingface import load_huggingface
from keras_tformer.checkpoints.load_tf_checkpoint import load_tf_checkpoint
from keras_tformer.checkpoints.save_huggingface import save_huggingface
from keras_tformer.checkpoints.save_tf_checkpoint import save_tf_checkpoint

__all__ = [
    "download_huggingface",
    "from_keras_hub",
    "load_huggingface",
    "load_tf_checkpoint",
    "save_huggingface",
    "save_tf_checkpoint",
    "to_keras_hub",
]
