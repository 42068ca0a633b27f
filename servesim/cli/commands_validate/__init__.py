"""The checks of ``servesim validate``, one file each."""
