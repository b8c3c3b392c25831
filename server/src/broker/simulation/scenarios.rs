//! Which stories are worth telling one by one? Scripts whose course is known.
