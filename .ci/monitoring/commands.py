"""The commands that a text tells its reader to run: whether the program has them."""

import re
import subprocess

QUOTED = re.compile(r"`((?:gateway-events|--)[^`]*)`")


def complaints(text, program):
    """What is wrong with the commands in a text."""
    subcommands = []
    for command in QUOTED.findall(text):
        words = command.split()
        if not command.startswith("--"):
            # The command of this repository's other program.
            if words[0] != "gateway-events":
                continue
            subcommands = leading_names(words[1:])
        options = [it for it in words if it.startswith("--")]
        answer = subprocess.run([program, *subcommands, "--help"], capture_output=True, text=True)
        if answer.returncode != 0:
            yield f"`{command}` does not exist: {answer.stderr.strip()}"
            continue
        known = re.findall(r"(?<![\w-])--[a-z-]+", answer.stdout)
        yield from (f"`{command}`: there is no {it}" for it in options if it not in known)


def leading_names(words):
    """The subcommands: what follows them is an option or an argument."""
    names = []
    for word in words:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        names.append(word)
    return names
