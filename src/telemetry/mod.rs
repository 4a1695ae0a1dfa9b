//! Registry and text format, access-log writer.
