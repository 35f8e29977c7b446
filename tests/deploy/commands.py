"""Other people's programs, run to their end."""

import subprocess


def run(*command, **kwargs):
    """What the command says; an AssertionError with the end of it where it fails."""
    made = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, **kwargs)
    if made.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {made.returncode}:\n{made.stdout[-8000:]}")
    return made.stdout
