"""ABX: how often a phone is nearer to another phone than to itself (Schatz et al. 2013).

Tokens are phones with the phones before and after them, as in libri-light (Kahn et al. 2020) and
ZeroSpeech: A and X are the same phone, B is another between the same neighbours. Within speakers
all three are one person's; across speakers X is another person's. Frames are compared by the angle
between them, tokens by dynamic time warping.
"""

from gim_audio.abx.items import Item, items_of, read_items
from gim_audio.abx.run import abx

__all__ = ["Item", "abx", "items_of", "read_items"]
