//! What is wrong with a configuration: where, what, and what to write instead.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// A place in a file; the first line and column are 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Something that is wrong, or looks wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Where in it, as far as that is known.
    pub at: Option<Place>,
    /// The key, from the root: `services.web.ttl`.
    pub key: String,
    /// What was given, and what is expected.
    pub what: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// Whether the configuration can be served all the same.
    pub is_warning: bool,
}

impl Problem {
    /// Something that is wrong with a whole file.
    pub fn of_file(file: &str, what: String) -> Self {
        let file = file.to_owned();
        Self { file, at: None, key: String::new(), what, suggestion: None, is_warning: false }
    }
}

/// Puts them into the order in which they are looked for: those of the configuration in `file`
/// first, those of each file from its beginning on.
pub fn sort(problems: &mut [Problem], file: &str) {
    problems.sort_by(|a, b| (a.file != file, &a.file, a.at).cmp(&(b.file != file, &b.file, b.at)));
}

/// A file that the configuration names, and where it does.
#[derive(Clone, Debug)]
pub struct Mention {
    /// The file.
    pub path: PathBuf,
    pub(super) at: Place,
    pub(super) key: String,
}

impl Mention {
    /// What is wrong, as the configuration in `file` names it.
    pub fn problem(&self, file: &str, what: String) -> Problem {
        Problem { at: Some(self.at), key: self.key.clone(), ..Problem::of_file(file, what) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        // What a file has in it is not to speak to a terminal.
        let shown = |text: &str, f: &mut fmt::Formatter<'_>| {
            text.chars().try_for_each(|of| match of {
                '\n' => f.write_char(of),
                of if of.is_control() => write!(f, "{}", of.escape_default()),
                of => f.write_char(of),
            })
        };
        if let Some(Place { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(if self.is_warning { ": warning: " } else { ": error: " })?;
        if !self.key.is_empty() {
            shown(&self.key, f)?;
            f.write_str(": ")?;
        }
        shown(&self.what, f)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

/// The known word that `given` is most like, if it is like one at all.
pub(super) fn nearest<'k>(
    given: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let scored = known.into_iter().map(|word| (strsim::damerau_levenshtein(given, word), word));
    let (distance, word) = scored.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may differ: more is another word.
    (distance <= given.chars().count().max(3) / 3 + 1 && distance < word.chars().count())
        .then_some(word)
}
