//! The names of header fields and parameters whose values are secret. All comparisons are between names that
//! were reduced to their letters and digits in lower case, because `access_token`, `Access-Token` and
//! `accessToken` are the same to servers of different frameworks.

/// A name reduced to its letters and digits, in lower case.
pub(super) fn reduced(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether the value of a header field is a secret.
pub(super) fn is_secret_header(name: &str) -> bool {
    matches!(
        name,
        "authenticationinfo"
            | "proxyauthenticationinfo"
            | "dpop"
            | "xauth"
            | "xauthkey"
            | "xfunctionskey"
            | "xamznoidcdata"
            | "xmsencryptionkey"
            | "xgoogencryptionkey"
            | "xamzserversideencryptioncustomerkey"
            | "xamzcopysourceserversideencryptioncustomerkey"
            | "xmsclientprincipal"
            | "subscriptionkey"
            | "ocpapimsubscriptionkey"
    ) || ["authorization", "jwt", "jwtassertion"].iter().any(|end| name.ends_with(end))
        || ends_as_secret(name)
}

/// Whether the value of a parameter of a query, a fragment or a form is a secret.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    matches!(
        name,
        "key"
            | "pass"
            | "pwd"
            | "pin"
            | "otp"
            | "auth"
            | "authorization"
            | "authkey"
            | "code"
            | "codeverifier"
            | "assertion"
            | "clientassertion"
            | "samlresponse"
            | "jwt"
            | "ticket"
            | "session"
            | "sessionid"
            | "jsessionid"
            | "phpsessid"
            | "aspsessionid"
            | "sid"
            | "sig"
            | "hmac"
            | "awsaccesskeyid"
            | "accesskey"
            | "accesskeyid"
            | "privatekey"
            | "secretkey"
            | "subscriptionkey"
    ) || ends_as_secret(name)
}

/// Whether a name ends with a word for a secret, as in `X-Amz-Security-Token` and `client_secret`.
fn ends_as_secret(name: &str) -> bool {
    /// Tokens that say where the next page of a list begins, or which request it is.
    const HARMLESS: [&str; 5] =
        ["pagetoken", "nexttoken", "continuationtoken", "cancellationtoken", "idempotencytoken"];
    let ends = [
        "token",
        "secret",
        "password",
        "passwd",
        "passphrase",
        "apikey",
        "signature",
        "credential",
        "credentials",
    ];
    ends.iter().any(|end| name.ends_with(end)) && !HARMLESS.iter().any(|end| name.ends_with(end))
}

/// Whether a word is the scheme of credentials. An unknown first word may be a part of the secret.
pub(super) fn is_scheme(word: &str) -> bool {
    const SCHEMES: [&str; 28] = [
        "apikey",
        "aws",
        "aws4-ecdsa-p256-sha256",
        "aws4-hmac-sha256",
        "basic",
        "bearer",
        "bot",
        "concealed",
        "digest",
        "dpop",
        "geniekey",
        "gnap",
        "googlelogin",
        "hawk",
        "hoba",
        "jwt",
        "key",
        "mutual",
        "negotiate",
        "ntlm",
        "oauth",
        "sharedkey",
        "sharedkeylite",
        "signature",
        "splunk",
        "ssws",
        "token",
        "vapid",
    ];
    SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(word))
}

/// Whether a part of `Set-Cookie` is an attribute, whose value is not secret.
pub(super) fn is_cookie_attribute(name: &str) -> bool {
    const ATTRIBUTES: [&str; 9] =
        ["domain", "expires", "httponly", "max-age", "partitioned", "path", "priority", "samesite", "secure"];
    ATTRIBUTES.iter().any(|attribute| attribute.eq_ignore_ascii_case(name))
}
