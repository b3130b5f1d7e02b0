"""exitguard: gets every open position of every account out, and shows that it did."""

__version__ = "0.1.0"
