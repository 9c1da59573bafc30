"""Parts of gpg_vl for other libraries."""
