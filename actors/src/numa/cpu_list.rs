//! Lists of CPUs as the kernel writes them: `0-3,8`.

/// More CPUs than Linux supports; a list that goes beyond is not one.
const MAX_CPU: u32 = 8191;

/// The CPUs of a list, ascending; `None` when it is no such list.
pub fn parse(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// The list of ascending CPUs, with ranges.
pub fn format(cpus: &[u32]) -> String {
    let ranges = cpus.chunk_by(|before, after| before + 1 == *after);
    let parts = ranges.filter_map(|range| match (range.first()?, range.last()?) {
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, cpus) in [("", vec![]), ("3\n", vec![3]), ("0-3,8", vec![0, 1, 2, 3, 8]), ("0,2-3", vec![0, 2, 3])] {
            assert_eq!(parse(text), Some(cpus.clone()), "{text}");
            assert_eq!(format(&cpus), text.trim());
        }
        for broken in ["x", "3-1", "1-", "0-4294967295", "-1"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
