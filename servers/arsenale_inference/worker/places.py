"""Where generations are in the KV cache: a sequence each, and prefixes that are kept for later."""

import numpy as np

from arsenale_inference.engine.engine import Engine
from arsenale_inference.worker.generation import Generation
from arsenale_inference.worker.prefixes import Prefixes


class Places:
    """The sequences of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prefixes = Prefixes(engine.options.context.sequences)

    def give(self, generation: Generation) -> None:
        """Give GENERATION a sequence that holds as much of its prompt as can be had.

        A scored prompt is computed anew: the KV cache has no logits.
        """
        context = self._engine.context
        tokens = np.array(generation.tokens, np.int32)
        share = None
        if self._engine.model.info.one_kv_cache and not generation.is_scored:
            share = self._prefixes.best(generation.stack, tokens)
        if share is not None and share.whole:
            generation.sequence = share.sequence
            self._prefixes.revive(share.sequence)
        else:
            generation.sequence = self._sequence(generation, share.sequence if share else None)
            if share is not None:
                context.copy_prefix(share.sequence, generation.sequence, share.length)
        generation.computed = share.length if share else 0
        self._prefixes.note(generation.sequence, tokens[: generation.computed])

    def _sequence(self, generation: Generation, source: int | None) -> int:
        found = self._prefixes.take(generation.stack)
        while found is None:
            oldest = self._prefixes.oldest_kept(but=source)
            if oldest is None:
                assert source is not None  # more sequences than live ones: one kept is left
                oldest = source
            self.forget(oldest)
            found = self._prefixes.take(generation.stack)
        return found

    def make_room(self, promised: int) -> None:
        """Forget kept prefixes, the oldest first, until PROMISED tokens fit beside the others."""
        while promised + self._prefixes.kept_tokens > self._engine.context.tokens:
            oldest = self._prefixes.oldest_kept()
            if oldest is None:
                return
            self.forget(oldest)

    def forget(self, sequence: int) -> None:
        """Let go of what SEQUENCE holds."""
        self._engine.context.remove(sequence)
        self._prefixes.drop(sequence)

    def note(self, generation: Generation) -> None:
        """Note what of GENERATION is computed."""
        assert generation.sequence is not None
        tokens = np.array(generation.tokens[: generation.computed], np.int32)
        self._prefixes.note(generation.sequence, tokens)

    def keep(self, generation: Generation) -> None:
        """Take the sequence of GENERATION, if it has one; what it computed is kept for others."""
        if generation.sequence is not None:
            self.note(generation)
            self._prefixes.keep(generation.sequence)
            generation.sequence = None

    def take_back(self, generation: Generation) -> None:
        """Take the sequence of GENERATION, which is computed anew later."""
        assert generation.sequence is not None
        self.forget(generation.sequence)
        generation.sequence, generation.computed = None, 0

    def forget_layer(self, name: str) -> None:
        """Let go of the prefixes that were computed with the layer NAME."""
        for sequence in self._prefixes.with_layer(name):
            self.forget(sequence)

    def forget_kept(self) -> bool:
        """Let go of all prefixes that nobody uses; say whether there were any."""
        oldest = self._prefixes.oldest_kept()
        if oldest is None:
            return False
        while oldest is not None:
            self.forget(oldest)
            oldest = self._prefixes.oldest_kept()
        return True
