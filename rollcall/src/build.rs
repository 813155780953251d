//! Of what this program was built, and how: what figures depend on, beyond its version.

/// The commit of the git checkout that it was built from, with `-dirty` behind it where files had
/// been changed; `None` when there was no git.
pub const COMMIT: Option<&str> = option_env!("ROLLCALL_COMMIT");

/// `release`, or `debug` for a program that checks itself and is not optimised.
pub const PROFILE: &str = match cfg!(debug_assertions) {
    true => "debug",
    false => "release",
};

/// Both, as the report names them.
pub fn versions() -> impl Iterator<Item = (&'static str, String)> {
    let commit = COMMIT.map(|commit| ("commit", commit.to_owned()));
    commit.into_iter().chain([("profile", PROFILE.to_owned())])
}
