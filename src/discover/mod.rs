//! A source of endpoints as a watch: fixed addresses or DNS.
