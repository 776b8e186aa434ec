//! The file of tokens.

/// What is wrong with a line of it.
pub(super) const NO_TOKEN: &str = "expected NAME TOKEN; until that is mended, no token counts";

/// The names and tokens of such a file, or the first line that is neither these, nor empty, nor a
/// comment.
pub(super) fn tokens(text: &str) -> Result<Vec<(&str, &str)>, usize> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.map(|(row, line)| line.split_once(char::is_whitespace).ok_or(row));
    pairs.map(|pair| pair.map(|(name, token)| (name, token.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_token_is_told() {
        let good = "# name token\nalice s3cret\n\n bob\thunter2 \n";
        assert_eq!(tokens(good), Ok(vec![("alice", "s3cret"), ("bob", "hunter2")]));
        assert_eq!(tokens("# name token\nalice s3cret\nbob\n"), Err(3));
    }
}
