//! Where a file can have a hole instead of zeros. Pure.

/// The unit in which file systems keep files.
const BLOCK: u64 = 4096;

/// The parts of `bytes`, which stand at `at` of a file: runs of whole blocks of zeros, and what is
/// between them.
pub(super) fn runs(at: u64, bytes: &[u8]) -> Vec<(bool, &[u8])> {
    let mut runs: Vec<(bool, &[u8])> = Vec::new();
    let mut start = 0;
    let mut zeros = None;
    let mut end = 0;
    while end < bytes.len() {
        let to_boundary = BLOCK - (at + end as u64) % BLOCK;
        let length = usize::try_from(to_boundary).unwrap_or(usize::MAX);
        let block = &bytes[end..][..length.min(bytes.len() - end)];
        let empty = block.iter().all(|byte| *byte == 0);
        if zeros.is_some_and(|zeros| zeros != empty) {
            runs.push((!empty, &bytes[start..end]));
            start = end;
        }
        zeros = Some(empty);
        end += block.len();
    }
    runs.extend(zeros.map(|zeros| (zeros, &bytes[start..])));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_block_by_block() {
        let mut bytes = vec![0; 5 * 4096];
        bytes[2 * 4096] = 1;
        let lengths = |at, bytes| -> Vec<(bool, usize)> {
            let runs = runs(at, bytes).into_iter();
            runs.map(|(zeros, run)| (zeros, run.len())).collect()
        };
        assert_eq!(
            lengths(8192, &bytes),
            [(true, 8192), (false, 4096), (true, 8192)]
        );
        // Half a block later the byte stands in the second half of another block.
        assert_eq!(
            lengths(2048, &bytes),
            [(true, 2048 + 4096), (false, 4096), (true, 8192 + 2048)]
        );
        assert_eq!(lengths(0, &[]), []);
        assert_eq!(lengths(5, &[0]), [(true, 1)]);
        assert_eq!(lengths(0, &[1; 5000]), [(false, 5000)]);
        let parts: Vec<&[u8]> = runs(100, &bytes).into_iter().map(|(_, run)| run).collect();
        assert_eq!(parts.concat(), bytes);
    }
}
