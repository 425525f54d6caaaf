"""Probes for words.c; `probeloom rewrite words -o words.inst --probe 'entry:add_word=probes.py:lengths'`."""

from jit import probe

LONG = 12


@probe(words=2)
def lengths(ctx):
    """At the entry of f(text, length): the longest length, and how often it was LONG or more."""
    if ctx.rsi > ctx.data[0]:
        ctx.data[0] = ctx.rsi
    if ctx.rsi >= LONG:
        ctx.data.add(1, 1)


@probe(words=16)
def first_letters(ctx):
    """At the entry of f(text, ...): a histogram of the lowest four bits of the first character."""
    ctx.data.add(ctx.load8(ctx.rdi) & 15, 1)


@probe(words=1)
def cut_short(ctx):
    """At the entry of f(text, length): the function sees at most four characters."""
    ctx.rsi = min(ctx.rsi, 4)


@probe
def results(ctx):
    """At the return of a function that gives a C int: how many are negative, zero, positive; the smallest."""
    value = ctx.signed(ctx.eax, 32)
    if value < 0:
        ctx.data.add(0, 1)
    elif value == 0:
        ctx.data.add(1, 1)
    else:
        ctx.data.add(2, 1)
    ctx.data[3] = min(value, ctx.data[3])
