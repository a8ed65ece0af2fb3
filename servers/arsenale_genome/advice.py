"""What is doubtful about a stack or a layer, in sentences. Pure."""

from collections.abc import Mapping

from arsenale_genome.record import PROMPTS_MIN, Genome, Layer

LAYERS_WELL = 4
"""Beyond so many layers each of them costs speed and the sum of weights grows."""

COMPOSES_BADLY = (
    "layers that were trained apart compose badly; compare with each alone, "
    "or train it again on this stack"
)


def on_stack(genome: Genome, layers: Mapping[str, Layer]) -> list[str]:
    """Return what is doubtful about the stack of GENOME; LAYERS are its layers by SHA-256."""
    said: list[str] = []
    below: list[str] = []
    for placed in genome.layers:
        layer = layers.get(placed.sha256)
        if layer is None:
            said.append(f"{placed.layer} is missing; import it again or take it out")
            continue
        if layer.base != genome.base:
            said.append(f"{layer.name} was trained on base {layer.base}, not on {genome.base}")
        known = {each.sha256 for each in layer.trained_on}
        if apart := [layers[sha].name for sha in below if sha not in known]:
            said.append(f"{layer.name} was not trained on {', '.join(apart)}: {COMPOSES_BADLY}")
        if missing := [b.name for b in layer.trained_on if b.sha256 not in below]:
            said.append(f"{layer.name} was trained on {', '.join(missing)}, not below it here")
        below.append(placed.sha256)
    if len(genome.layers) > LAYERS_WELL:
        said.append(f"{len(genome.layers)} layers are slow; {LAYERS_WELL} or fewer serve well")
    return said


def on_layer(layer: Layer, *, fit_checked: bool) -> list[str]:
    """Return what should be added to LAYER."""
    said: list[str] = []
    if not fit_checked:
        said.append(
            f"not checked against {layer.base}: give `base_path`, its GGUF file, to be sure it fits"
        )
    if len(layer.rehearsal) < PROMPTS_MIN:
        said.append(
            f"{len(layer.rehearsal)} rehearsal prompts: with {PROMPTS_MIN} to 50 a layer can be "
            "trained on top without losing this one"
        )
    if not layer.licence:
        said.append("no licence: who gets it cannot know what is allowed")
    return said
