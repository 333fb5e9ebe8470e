//! Exit codes: what went wrong, as a number that scripts can tell apart. `weft --help` lists them.

use std::process::ExitCode;

/// The command line is not what the command takes, beyond what its parser could see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The controller or the lab cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The API refused the request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Hosts did not acknowledge, or ports did not go live, in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Late(pub String);

/// An expectation was not met.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotMet(pub String);

/// The exit code of another command, which has told its own story.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with code {0}")]
pub struct Passed(pub u8);

/// An error with its causes, outermost first, leaving out a cause that the one before has told already.
pub fn tell(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|c| !c.is_empty()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code for an error, by its kind.
pub fn code(error: &anyhow::Error) -> ExitCode {
    if let Some(Passed(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    let code = match error {
        e if e.is::<Usage>() => 2,
        e if e.is::<Late>() => 3,
        e if e.is::<NotMet>() => 4,
        e if e.is::<Unreachable>() => 5,
        e if e.is::<Refused>() => 6,
        _ => 1,
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no such file").context("cannot open x: no such file").context("lab `t`");
        assert_eq!(tell(&error), "lab `t`: cannot open x: no such file");
    }

    #[test]
    fn the_code_is_known_through_any_context() {
        let late = || Err::<(), _>(Late("h1".into()));
        let error = late().context("apply").unwrap_err();
        assert_eq!(format!("{:?}", code(&error)), format!("{:?}", ExitCode::from(3)));
    }
}
