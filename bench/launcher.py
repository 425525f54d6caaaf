"""A process between a tool that traces and the program it traces: the program's end is reported here, stops are not.

    python bench/launcher.py FD LIBRARY PROGRAM ARGUMENT ...

Writes to the file descriptor FD the program's process identifier, and when it has ended its wait status and user time.
LIBRARY is preloaded into the program.
"""

import os
import sys

if __name__ == "__main__":
    report, library, *command = sys.argv[1:]
    child = os.posix_spawn(command[0], command, {**os.environ, "LD_PRELOAD": library})
    os.write(int(report), b"%d\n" % child)
    _, ended, usage = os.wait4(child, 0)
    os.write(int(report), b"%d %.6f\n" % (ended, usage.ru_utime))
