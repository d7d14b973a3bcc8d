//! The token service and API tokens.
