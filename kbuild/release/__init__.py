"""Write, sign, check and describe releases; other packages use ``api``."""
