"""A stand-in for the train function that passes over batches already trained on."""


class PassedBatches:
    """Reads the batches of an interrupted run without training, then trains.

    Keras counts them as steps, so that the epoch ends where it did. A dataset that is
    read anew each epoch is put where its last run began the epoch: its iterator is
    made as often as in the epochs before, because a shuffle changes its order by that
    (leave `steps_per_epoch` out for a dataset that ends with the epoch). With
    `steps_per_epoch` and a dataset that goes on over epochs (`.repeat()`), the epochs
    before are read as well. A dataset that begins where the last run ended is not read:
    its steps are only counted.

    Args:
        model: the `keras.Model` in `fit`, on the TensorFlow backend.
        epochs: int, finished epochs.
        steps: int, finished steps of this epoch.
        steps_per_epoch: int, or None where it is unknown.
        are_read: bool, False where the dataset begins behind these batches.
    """

    def __init__(self, model, epochs, steps, steps_per_epoch, are_read=True):
        self.model = model
        self.train = model.train_function
        self.epochs = epochs
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch
        self.are_read = are_read
        self.iterator = None

    def __call__(self, iterator):
        if self.iterator is None:
            self.iterator = self._at_epoch(iterator) if self.are_read else iterator
        if self.steps > 0:
            for _ in range(self.model.steps_per_execution if self.are_read else 0):
                next(self.iterator)
            self.steps -= self.model.steps_per_execution
            return {}
        return self.train(self.iterator)

    def _at_epoch(self, iterator):
        import tensorflow as tf

        is_divided = isinstance(iterator, tf.distribute.DistributedIterator)
        if is_divided:
            length = int(iterator._cardinality)
        elif hasattr(iterator, "_dataset"):
            length = int(iterator._dataset.cardinality())
        else:
            return iterator
        # Keras reads anew each epoch what ends with it, of unknown length too.
        is_endless = length == tf.data.INFINITE_CARDINALITY
        if is_endless or length > (self.steps_per_epoch or length):
            for _ in range(self.epochs * self.steps_per_epoch):
                next(iterator)
            return iterator
        # Keras makes two iterators an epoch, of which it leaves one, where it knows the
        # length before it has read it.
        for _ in range(self.epochs * (2 if length > 0 else 1)):
            if is_divided:
                for part in iterator._iterators:
                    part._make_iterator()
            else:
                iterator = iter(iterator._dataset)
        return iterator
