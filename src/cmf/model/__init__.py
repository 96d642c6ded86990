"""What a fact is: digests, the encoding profile, the six record kinds, segments and series chunks.

Pure: no input or output, no clock, no randomness. `docs/reference/format.md` is the normative text of what this
package reads and writes.
"""
