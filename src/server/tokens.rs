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

/// Fewer characters are soon guessed: nobody counts how often that is tried.
const SHORTEST: usize = 16;

/// What looks wrong with a file that is right: the lines of tokens that are short.
pub(super) fn short(text: &str) -> Vec<(usize, String)> {
    let is_short = |(_, line): &(usize, &str)| {
        let token = tokens(line).ok().and_then(|pairs| pairs.first().map(|(_, token)| token.len()));
        token.is_some_and(|length| length < SHORTEST)
    };
    let lines = (1..).zip(text.lines()).filter(is_short);
    let what = |line: &str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        format!(
            "the token of {name} is shorter than {SHORTEST} characters; draw one by \
             `openssl rand -hex 16`"
        )
    };
    lines.map(|(row, line)| (row, what(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_token_is_told_by_its_owner_s_name_alone() {
        let told = short("# name token\nalice s3cret\n\n bob 0123456789abcdef\ncarol\n");
        assert_eq!(told.len(), 1);
        assert!(told[0].0 == 2 && told[0].1.starts_with("the token of alice is"), "{told:?}");
        assert!(!told[0].1.contains("s3cret"), "{told:?}");
    }

    #[test]
    fn a_line_that_is_no_token_is_told() {
        let good = "# name token\nalice s3cret\n\n bob\thunter2 \n";
        assert_eq!(tokens(good), Ok(vec![("alice", "s3cret"), ("bob", "hunter2")]));
        assert_eq!(tokens("# name token\nalice s3cret\nbob\n"), Err(3));
    }
}
