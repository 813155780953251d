//! The commit and the profile that this program was built with, on which measured figures depend.

/// The commit of the git checkout that the program was built from, with `-dirty` after it when
/// files had changed; `None` without a checkout.
pub const COMMIT: Option<&str> = option_env!("ROLLCALL_COMMIT");

/// `release`, or `debug` when debug assertions are on.
pub const PROFILE: &str = match cfg!(debug_assertions) {
    true => "debug",
    false => "release",
};

/// Commit and profile with their names in the report.
pub fn versions() -> impl Iterator<Item = (&'static str, String)> {
    let commit = COMMIT.map(|commit| ("commit", commit.to_owned()));
    commit.into_iter().chain([("profile", PROFILE.to_owned())])
}
