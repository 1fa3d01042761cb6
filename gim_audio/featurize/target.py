"""The place and form of features, for one module or several."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gim_audio.errors import GimAudioError
from gim_audio.featurize.encode import Task
from gim_audio.featurize.outputs import FileFormat, Output, parse_output

__all__ = ["Target", "numbered"]


@dataclass(frozen=True)
class Target:
    """The place and form of features.

    Attributes:
        specifier: A folder, file or archive, as in `parse_output`; where modules are asked for, the
            word `MODULE` in it becomes the number of each.
        form: The format of a folder's files.
        compress: a Kaldi archive.
    """

    specifier: str
    form: FileFormat = "npy"
    compress: bool = False

    def named(self, task: Task, module: int) -> str:
        """Return the specifier of one module's output."""
        return numbered(self.specifier, "MODULE", module) if task.modules else self.specifier

    def outputs(self, task: Task, modules: Iterable[int]) -> dict[int, Output]:
        """One a module.

        Raises:
            GimAudioError: one is not understood, or two have the same name.
        """
        found = {}
        for module in modules:
            found[module] = parse_output(
                self.named(task, module), self.form, task.dtype, compress=self.compress
            )
        if len(found) > 1 and numbered(self.specifier, "MODULE", 1) == self.specifier:
            raise GimAudioError(
                f"{self.specifier}: several modules, several outputs: put MODULE into the name,"
                " where the number goes"
            )
        for path, times in Counter(
            os.path.realpath(path) for output in found.values() for path in output.paths
        ).items():
            if times > 1:
                raise GimAudioError(
                    f"{self.specifier}: {path} would be written {times} times: give each its own"
                    " name"
                )
        return found


def numbered(name: str, word: str, number: int) -> str:
    """Return a name with a number in the place of a word in capitals, where it stands alone."""
    return re.sub(rf"(?<![A-Z]){word}(?![A-Z])", str(number), name)
