"""Makes the releases and prints the arguments of each, as a shell takes them."""

import shlex

from . import prepare

for release, arguments in prepare().items():
    print(f"{release}: {shlex.join(arguments)}")
