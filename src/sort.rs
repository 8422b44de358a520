//! Sorting, by one road. The standard library's sort is written once more for every type that is sorted, five kilobytes
//! each time; here the places of the elements are sorted, with one copy of that code for all types. Knows nobody.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sorts; what is equal keeps its order.
pub fn sort<T: Ord>(list: &mut Vec<T>) {
    sort_by(list, T::cmp);
}

/// Sorts by what `key` says of each element; what is equal keeps its order.
pub fn sort_by_key<T, K: Ord>(list: &mut Vec<T>, key: impl Fn(&T) -> K) {
    sort_by(list, |a, b| key(a).cmp(&key(b)));
}

/// Sorts by a comparison; what is equal keeps its order. Takes memory for the list once more while it works.
pub fn sort_by<T>(list: &mut Vec<T>, compare: impl Fn(&T, &T) -> Ordering) {
    let places = places(list.len(), &|a, b| compare(&list[a], &list[b]));
    let mut unsorted: Vec<Option<T>> = list.drain(..).map(Some).collect();
    list.extend(places.into_iter().filter_map(|place| unsorted[place].take()));
}

/// An ordered map of what an iterator yields; of equal keys the last counts. `collect` would sort first, with one more sort.
pub fn map<K: Ord, V>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        map.insert(key, value);
    }
    map
}

/// The places `0..len` in the order of what stands there.
fn places(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..len).collect();
    places.sort_by(|&a, &b| compare(a, b));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_what_is_equal_keeps_its_order() {
        let mut words = vec!["pear", "fig", "plum", "apple", "kiwi", "fig"];
        sort(&mut words);
        assert_eq!(words, ["apple", "fig", "fig", "kiwi", "pear", "plum"]);
        let mut words = vec!["pear", "fig", "plum", "apple", "kiwi"];
        sort_by_key(&mut words, |word| word.len());
        assert_eq!(words, ["fig", "pear", "plum", "kiwi", "apple"]);
        sort_by_key(&mut words, |word| std::cmp::Reverse(word.len()));
        assert_eq!(words, ["apple", "pear", "plum", "kiwi", "fig"]);
        sort(&mut Vec::<u8>::new());
    }

    #[test]
    fn of_equal_keys_a_map_has_the_last() {
        let map = map([("b", 1), ("a", 2), ("b", 3)]);
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("a", 2), ("b", 3)]);
    }

    #[test]
    fn a_long_list_is_sorted_as_the_standard_library_does_it() {
        let mut state = 7u64;
        let mut list: Vec<(u64, usize)> = (0..1000)
            .map(|place| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 33) % 50, place)
            })
            .collect();
        sort_by_key(&mut list, |pair| pair.0);
        assert!(list.is_sorted());
        assert_eq!(list.len(), 1000);
    }
}
