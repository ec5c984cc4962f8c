"""Vision-language captioners and translators behind one call each."""
