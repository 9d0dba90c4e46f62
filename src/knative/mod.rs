//! Names and formats that Knative's components share.
