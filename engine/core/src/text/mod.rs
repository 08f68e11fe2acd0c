//! What is done with text before and after the model: sentences, key sentences, passages, guards, gates, language.

pub mod draft;
#[cfg(test)]
mod eval;
pub mod gates;
pub mod guard;
pub mod language;
pub mod quotes;
pub mod sentences;
pub mod summary;
pub mod words;

use std::ops::Range;

/// Turns byte ranges of `text` into ranges of UTF-16 code units, which is how the DOM counts.
///
/// One pass for ranges in rising order. Ends that lie outside of `text` or inside a character move to the next boundary.
pub fn utf16_ranges(text: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut ends: Vec<(usize, usize)> = Vec::with_capacity(ranges.len() * 2);
    for (i, range) in ranges.iter().enumerate() {
        ends.push((range.start, 2 * i));
        ends.push((range.end, 2 * i + 1));
    }
    ends.sort_unstable();
    let mut out = vec![0..0; ranges.len()];
    let mut put = |slot: usize, units: usize| {
        let range = &mut out[slot / 2];
        if slot.is_multiple_of(2) { range.start = units } else { range.end = units }
    };
    let (mut next, mut units) = (0, 0);
    for (at, c) in text.char_indices() {
        while next < ends.len() && ends[next].0 <= at {
            put(ends[next].1, units);
            next += 1;
        }
        units += c.len_utf16();
    }
    for &(_, slot) in &ends[next..] {
        put(slot, units);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_counts_as_the_dom_does() {
        let text = "a é 😊 日本 z";
        let find = |s: &str| text.find(s).map(|at| at..at + s.len()).unwrap();
        let ranges = [find("z"), find("é"), find("😊"), find("日本"), 0..text.len(), 0..999];
        let utf16: Vec<u16> = text.encode_utf16().collect();
        for (range, units) in ranges.iter().zip(utf16_ranges(text, &ranges)) {
            let want = &text[range.start..range.end.min(text.len())];
            assert_eq!(String::from_utf16(&utf16[units]).unwrap(), want);
        }
        let empty = 0..0;
        assert_eq!(utf16_ranges("", std::slice::from_ref(&empty)), std::slice::from_ref(&empty));
    }
}
