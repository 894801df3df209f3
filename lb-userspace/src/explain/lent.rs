//! Values that stay where they are: what is put in can be lent out while more is put in.

use std::cell::OnceCell;

/// A list that only grows. For a handful of values.
#[derive(Debug)]
pub(super) struct Lent<T>(OnceCell<Box<(T, Lent<T>)>>);

impl<T> Default for Lent<T> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<T> Lent<T> {
    /// Puts a value in.
    pub(super) fn put(&self, value: T) -> &T {
        let mut end = self;
        while let Some(next) = end.0.get() {
            end = &next.1;
        }
        &end.0.get_or_init(|| Box::new((value, Self::default()))).0
    }

    /// The last value put in that `is` the right one.
    pub(super) fn find(&self, is: impl Fn(&T) -> bool) -> Option<&T> {
        let (mut at, mut found) = (self, None);
        while let Some(next) = at.0.get() {
            found = Some(&next.0).filter(|value| is(value)).or(found);
            at = &next.1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_lends_values_while_more_are_put_in() {
        let lent = Lent::default();
        let first = lent.put(("a", 1));
        let second = lent.put(("b", 2));
        lent.put(("a", 3));
        assert_eq!((first.1, second.1), (1, 2));
        assert_eq!(
            lent.find(|(name, _)| *name == "a"),
            Some(&("a", 3)),
            "the last one counts"
        );
        assert_eq!(lent.find(|(name, _)| *name == "c"), None);
    }
}
