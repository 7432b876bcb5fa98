"""Writing files whole or not at all, and finding out early where none can be written."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nearly.core.errors import ArtifactError


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """See that files can be written into a folder, which need not exist yet; nothing is left behind.

    Args:
        folder: to write into later.

    Returns:
        The folder as a path.

    Raises:
        ArtifactError: when it is no folder, or nothing can be created in it (or in the nearest folder above that exists).
    """
    path = Path(folder)
    _check_name(path)
    at = path
    while not os.path.lexists(at) and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise ArtifactError(f"cannot write into {path}: {at} is no folder. Choose another.")
    try:
        with tempfile.TemporaryFile(dir=at):
            pass
    except OSError as error:
        raise ArtifactError(f"cannot write into {path}: {error.strerror or error}. Choose another folder.") from error
    return path


def check_file(path: str | os.PathLike[str]) -> Path:
    """See that a file can be written: its folder exists and takes files, and no folder has its name.

    Args:
        path: to write later.

    Returns:
        The same as a path.

    Raises:
        ArtifactError: when it cannot.
    """
    file = Path(path)
    _check_name(file)
    if file.is_dir():
        raise ArtifactError(f"cannot write {file}: it is a folder. Give the name of a file.")
    if not file.parent.is_dir():
        raise ArtifactError(f"cannot write {file}: there is no folder {file.parent}. Create it or choose another.")
    check_folder(file.parent)
    return file


def _check_name(path: Path) -> None:
    """Refuse a name that the system does not take, as one too long.

    Raises:
        ArtifactError: then.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}. Choose another name.") from error


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files, creating their folders: first all under temporary names, then each is renamed.

    When any cannot be written, what was there before is still there, and nothing else.

    Args:
        files: contents by path.

    Raises:
        ArtifactError: when a file cannot be written.
    """
    for path in files:
        if path.is_dir():
            raise ArtifactError(f"cannot write {path}: it is a folder. Choose another name.")
    made: list[Path] = []
    waiting: dict[Path, Path] = {}
    done = False
    try:
        for path, content in files.items():
            _make_folder(path.parent, made)
            temporary = path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.part")
            waiting[temporary] = path
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in waiting.items():
            os.replace(temporary, path)
        done = True
    except OSError as error:
        names = ", ".join(path.name for path in files)
        raise ArtifactError(f"cannot write {names}: {error.strerror or error}. Choose another folder.") from error
    finally:
        for temporary in waiting:
            with contextlib.suppress(OSError):  # after the renaming there is none
                temporary.unlink()
        if not done:
            for folder in reversed(made):
                with contextlib.suppress(OSError):  # something else is in it
                    folder.rmdir()


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Create a folder and those above it, and note which are new, outermost first."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, made)
    folder.mkdir()
    made.append(folder)
