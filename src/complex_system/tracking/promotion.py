"""Champion, candidate and earlier champions in MLflow's registry, with what people decided about them.

The candidate is the version with the alias ``candidate``. A decision is kept in a tag of each version that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from complex_system.errors import UnknownModelError
from complex_system.protocol.promotion import ChampionDecision
from complex_system.tracking.connection import is_refusal, log_files, translated
from complex_system.tracking.registry import ModelRegistry, ModelVersionRef

CANDIDATE = "candidate"
"""The alias of the candidate."""
APPROVED, PINNED, UNPINNED, RESTORED, ROLLED_BACK = "approved", "pinned", "unpinned", "restored", "rolled_back"
"""Version tags, each with the newest decision of its kind as JSON; ``restored`` is at what a roll-back returned to."""
CARD, CARD_HTML, CARD_MARKDOWN = "card", "card.html", "card.md"
"""Artifact folder of a run with the card of its model, and the files in it."""
HOLDOUT_RMSE, HOLDOUT_RECORDS = "holdout_rmse", "holdout_records"
"""Version tags: how the version did in the round that chose it."""


def decision_in(ref: ModelVersionRef | None, tag: str) -> ChampionDecision | None:
    """Return the decision in a version's tag; None where there is none."""
    if ref is None or not ref.tags.get(tag):
        return None
    try:
        return msgspec.json.decode(ref.tags[tag], type=ChampionDecision)
    except msgspec.MsgspecError:  # written by hand: it counts all the same
        name, version = ref.model, ref.version
        return ChampionDecision(action="pin", who="somebody", why=ref.tags[tag], at=0.0, model=name, version=version)


class PromotionRegistry(ModelRegistry):
    """The registry for who changes champion and candidate. Every method blocks; callers use threads."""

    def named(self, name: str, version: str) -> ModelVersionRef:
        """Return a version of this prefix by version or alias, without either the newest one of its model.

        Raises:
            UnknownModelError: It does not exist, or is not of this prefix.
        """
        ref = self.find(name, version or None)
        if not self._is_ours(ref):
            raise UnknownModelError(f"{name} is not one of the models '{self._prefix}-...' of this deployment.")
        return ref

    def candidate(self) -> ModelVersionRef | None:
        """Return the candidate; None where there is none."""
        with translated(self.uri, "looking for the candidate"):
            aliased = [model for model in self._models() if CANDIDATE in model.aliases]
            found = [self._existing(model.name, model.aliases[CANDIDATE]) for model in aliased]
        return next((ref for ref in found if ref is not None and self._is_ours(ref)), None)

    def set_candidate(self, ref: ModelVersionRef | None) -> None:
        """Move the alias ``candidate`` to a version; None takes it away."""
        with translated(self.uri, "setting the candidate"):
            if ref is not None:
                self._client.set_registered_model_alias(ref.model, CANDIDATE, ref.version)
            for model in self._models():
                if CANDIDATE in model.aliases and (ref is None or model.name != ref.model) and self._has_ours(model):
                    self._client.delete_registered_model_alias(model.name, CANDIDATE)

    def read(self, ref: ModelVersionRef, folder: str, names: Iterable[str]) -> dict[str, bytes]:
        """Return files of an artifact folder of a version's run; those that are missing are left out."""
        with translated(self.uri, "reading files of a run"):
            return self._artifacts(ref, folder, names)

    def card(self, name: str, version: str) -> bytes | None:
        """Return the card of a version of this prefix as HTML; None where it has none.

        Raises:
            UnknownModelError: There is no such version.
        """
        return self.read(self.named(name, version), CARD, (CARD_HTML,)).get(CARD_HTML)

    def write_card(self, ref: ModelVersionRef, files: Mapping[str, bytes]) -> None:
        """Keep the card of a version; another one is replaced."""
        with translated(self.uri, "logging a card"):
            log_files(self._client, ref.run_id, CARD, files)

    def tag(self, ref: ModelVersionRef, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version, and delete those that are None."""
        with translated(self.uri, "tagging a version"):
            for name, value in tags.items():
                if value is not None:
                    self._client.set_model_version_tag(ref.model, ref.version, name, value)
                elif name in ref.tags:
                    self._delete_tag(ref, name)

    def previous(self, champion: ModelVersionRef | None) -> ModelVersionRef | None:
        """Return the version that was champion before, without those that were rolled back; None where there is none."""
        earlier = (ref for ref in self.crowned() if ref != champion and ROLLED_BACK not in ref.tags)
        return next(earlier, None)

    def _delete_tag(self, ref: ModelVersionRef, name: str) -> None:
        try:
            self._client.delete_model_version_tag(ref.model, ref.version, name)
        except Exception as error:  # an earlier attempt, or somebody else, has deleted it
            if not is_refusal(error, "RESOURCE_DOES_NOT_EXIST"):
                raise
