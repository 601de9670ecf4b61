"""How a command ends, whatever it raises."""

import errno
import os
import signal

import pytest
import torch

from fairforget.cli import main
from fairforget.cli.loading import short_name
from fairforget.cli.running import guarded
from fairforget.cli.terminal import size_text
from fairforget.errors import DataError, FairforgetError, UsageError


def ended(error, capsys):
    def command():
        raise error

    code = guarded(command)
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


@pytest.mark.parametrize(("error", "code", "words"), [
    (UsageError("No."), 2, "No."),
    (DataError("Bad file."), 1, "Bad file."),
    (FairforgetError("Stopped."), 1, "Stopped."),
    (KeyboardInterrupt(), 130, "the same command goes on"),
    (MemoryError(), 1, "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 1, "not enough memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "no space left on the disk while writing /x/y"),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 12416 vs 12304"), 1, "no space left"),
    (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 1, "/x/y: Permission denied."),
    (ZeroDivisionError("division by zero\nmore"), 1, "(ZeroDivisionError: division by zero)"),
])
def test_every_failure_is_one_sentence_and_a_code(error, code, words, capsys):
    found, sentence = ended(error, capsys)
    assert found == code
    assert words in sentence
    assert sentence.count("\n") == 1


def test_a_full_disk_is_found_behind_the_error_of_a_library(capsys):
    error = RuntimeError("could not be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    code, sentence = ended(error, capsys)
    assert code == 1
    assert "no space left" in sentence


def test_the_traceback_is_for_those_who_ask_for_it(capsys, monkeypatch):
    monkeypatch.setenv("FAIRFORGET_DEBUG", "1")
    _, text = ended(ZeroDivisionError("division by zero"), capsys)
    assert "Traceback" in text


def test_an_interrupt_that_comes_out_as_another_error_is_still_an_interrupt(capsys):
    before = signal.getsignal(signal.SIGINT)

    def command():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    assert guarded(command) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_results_are_codes():
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 2) == 2


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 0
    assert "debias" in capsys.readouterr().out


@pytest.mark.parametrize(("ref", "name"), [
    ("smollm2-135m", "smollm2-135m"), ("owner/model-1.5b", "model-1.5b"), ("./folder/", "folder"), ("models/x.Q4.gguf", "x.Q4"),
])
def test_a_model_has_a_short_name(ref, name):
    assert short_name(ref) == name


def test_sizes():
    assert [size_text(size) for size in (0, 999, 1000, 12_345_678, 5e12)] == ["0 B", "999 B", "1.0 kB", "12.3 MB", "5.0 TB"]
