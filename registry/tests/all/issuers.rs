//! Tokens of another issuer.
