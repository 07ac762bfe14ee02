//! The nearest name to a mistyped one.

/// The candidate with the fewest edits to `name`, if those are few enough to be a typing error.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        for (column, to) in right.iter().enumerate() {
            let above = row[column + 1];
            let cost = diagonal + usize::from(from != *to);
            row[column] = before;
            before = cost.min(above + 1).min(before + 1);
            diagonal = above;
        }
        row[right.len()] = before;
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (left, right, edits) in [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["io.batch_size", "node.id"];
        assert_eq!(nearest("io.batchsize", names.into_iter()), Some("io.batch_size"));
        assert_eq!(nearest("node.colour", names.into_iter()), None);
    }
}
