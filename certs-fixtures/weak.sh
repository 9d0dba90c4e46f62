#!/bin/sh
# Makes the two fixtures that `lockkeeper certs mint --fixtures` can't make, because its library refuses weak algorithms:
# a leaf with an RSA key of 1024 bits, and a leaf that is signed with SHA-1. Needs openssl.
set -eu
cd "$(dirname "$0")/broken"

leaf() { # directory, bits of the leaf's key, digest of its signature
    mkdir -p "$1"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out "$1/ca.crt" -days 36500 \
        -subj "/CN=lockkeeper fixtures weak root" 2>/dev/null
    openssl genrsa "$2" 2>/dev/null > "$1/tls.key"
    openssl req -new -key "$1/tls.key" -subj "/CN=kn-user-demo" -out leaf.csr
    printf 'subjectAltName=DNS:kn-user-demo\nextendedKeyUsage=serverAuth,clientAuth\n' > leaf.ext
    openssl x509 -req -in leaf.csr -CA "$1/ca.crt" -CAkey root.key -CAcreateserial -days 36500 "-$3" \
        -extfile leaf.ext -out "$1/tls.crt" 2>/dev/null
    rm -f root.key leaf.csr leaf.ext "$1"/ca.srl ca.srl
}

leaf rsa1024 1024 sha256
leaf sha1 2048 sha1
