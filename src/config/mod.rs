//! YAML in, a checked `Config` or every diagnostic at once out.
