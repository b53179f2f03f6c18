//! What the hub does: routing, directory, recorder, rights and its own operations. Embeddable.
