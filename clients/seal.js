/**
 * Seals a credential to a vault's public key, before it leaves the operator's machine. WebCrypto and nothing else:
 * runs in a browser page (over https, or from localhost) and in Node 20 and later.
 *
 *     const sealed = await sealCredential({ jwks, fingerprint, tenant, slot: "entra", credential });
 *
 * `sealed` is what `tenantry credential put` reads: { tenant, slot, kind, identity, expires, envelope, digest }. The
 * envelope is a compact JWE (RFC 7516) with RSA-OAEP-256 and A256GCM whose protected header names tenant, slot and key.
 * The digest, SHA-256 of the envelope in hex, tells what was cut or changed on the way by accident; it proves nothing.
 * A refusal is a `Malformed`, which names the field and never quotes it.
 *
 * Strings cannot be wiped in JavaScript: clear the form and drop the page's references after sealing.
 */

const ALG = "RSA-OAEP-256";
const ENC = "A256GCM";
const TYP = "tenantry-credential+jwe";
const SLOTS = ["entra", "exchange-server"];
/** Microsoft's public client that accepts user names and passwords without an app registration. */
const AZURE_POWERSHELL = "1950a258-227b-4e31-a9cf-717495945fc2";

const MIN_KEY_BITS = 2048;
const MAX_KEY_BITS = 16384;
const MAX_JWKS_CHARACTERS = 64 * 1024;
const MAX_PAYLOAD_BYTES = 16 * 1024;
const MAX_TEXT = 256;
const MAX_SECRET = 1024;
const MAX_PEM = 12 * 1024;
const IV_BYTES = 12;
const TAG_BYTES = 16;
const PRIVATE_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/** What was given is not what is needed. `what`: the field; `expected`: what it should be. */
export class Malformed extends Error {
  constructor(what, expected) {
    super(`The ${what} cannot be used: expected ${expected}.`);
    this.name = "Malformed";
    this.what = what;
    this.expected = expected;
  }
}

const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const MOMENT = /^(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|[+-]\d\d:\d\d)?)?$/;
/** RFC 3339 has years of four digits. */
const FIRST_MOMENT = Date.parse("0001-01-01T00:00:00Z");
const LAST_MOMENT = Date.parse("9999-12-31T23:59:59Z");

const clientId = {
  what: "client id",
  expected: "the application (client) id, a GUID",
  holds: (value) => GUID.test(value),
};
const text = (what, limit) => ({
  what,
  expected: `1 to ${limit} characters without control characters`,
  holds: (value) => value !== "" && [...value].length <= limit && !/[\u0000-\u001f]|\p{Surrogate}/u.test(value),
});
const pem = (what) => ({
  what,
  expected: `PEM of at most ${MAX_PEM} characters`,
  holds: (value) => [...value].length <= MAX_PEM && !/\p{Surrogate}/u.test(value),
});

/** Kind to its fields, in the order they are sealed in. `identity`: the field that a credential is known by. */
const KINDS = {
  "app-certificate": {
    identity: "client_id",
    fields: { client_id: clientId, certificate_pem: pem("certificate"), private_key_pem: pem("private key") },
  },
  "app-secret": {
    identity: "client_id",
    fields: { client_id: clientId, secret: text("client secret", MAX_SECRET) },
  },
  "service-account": {
    identity: "username",
    fields: {
      username: text("user name", MAX_TEXT),
      password: text("password", MAX_SECRET),
      client_id: { ...clientId, otherwise: AZURE_POWERSHELL },
    },
  },
};

/**
 * The sealed credential. Raises `Malformed`.
 *
 * jwks         the vault's JWKS or JWK (`tenantry vault public-key`), JSON text or parsed; of several keys the first
 * fingerprint  the eight words to compare the key with; leave out only where the key itself came from a trusted place
 * tenant       directory id, a GUID
 * slot         "entra" or "exchange-server"
 * credential   { kind: "app-secret", client_id, secret }
 *              { kind: "service-account", username, password, client_id? }
 *              { kind: "app-certificate", client_id, certificate_pem, private_key_pem }
 * expires      when a secret expires: a Date, ISO 8601 text (a date or a time, in UTC unless it names its zone), or
 *              nothing; a certificate says it itself
 */
export async function sealCredential({ jwks, fingerprint, tenant, slot, credential, expires = null }) {
  const key = await readPublicKey(jwks);
  if (fingerprint != null && String(fingerprint).trim().toLowerCase() !== key.fingerprint) {
    throw new Malformed("vault public key", "the key of that fingerprint; this is another one");
  }
  check(typeof tenant === "string" && GUID.test(tenant), "tenant id", "a directory GUID with its hyphens");
  check(SLOTS.includes(slot), "credential slot", SLOTS.join(" or "));
  const payload = checkedPayload(credential);
  const certified = payload.kind === "app-certificate";
  check(!certified || expires == null, "expiry", "none beside a certificate, which says itself when it expires");
  const notAfter = certified ? await checkPair(payload) : moment(expires);
  const header = { alg: ALG, enc: ENC, kid: key.thumbprint, typ: TYP, tid: tenant.toLowerCase(), slot };
  const plaintext = new TextEncoder().encode(JSON.stringify(payload));
  try {
    check(plaintext.length <= MAX_PAYLOAD_BYTES, "payload to seal", `at most ${MAX_PAYLOAD_BYTES} bytes`);
    const envelope = await encrypt(header, plaintext, key.recipient);
    const identity = payload[KINDS[payload.kind].identity];
    const digest = toHex(await sha256(envelope));
    return { tenant: header.tid, slot, kind: payload.kind, identity, expires: notAfter, envelope, digest };
  } finally {
    plaintext.fill(0);
  }
}

/** The key to seal to: { recipient, thumbprint, fingerprint }. A page shows the fingerprint to be compared. */
export async function readPublicKey(jwks) {
  const what = "vault public key";
  const expected = `a JWK or JWKS with a public RSA key of ${MIN_KEY_BITS} to ${MAX_KEY_BITS} bits`;
  check(globalThis.crypto?.subtle, "page", "https or localhost: browsers have no WebCrypto elsewhere");
  const document = typeof jwks === "string" ? parseJson(jwks, what, expected) : jwks;
  const keys = isObject(document) && Object.hasOwn(document, "keys") ? document.keys : [document];
  check(Array.isArray(keys) && keys.length > 0 && keys.every(isObject), what, expected);
  const disclosed = keys.some((key) => PRIVATE_MEMBERS.some((name) => Object.hasOwn(key, name)));
  check(!disclosed, what, "its public half only; treat that private key as disclosed");
  const { kty, n, e, use = "enc", alg = ALG, kid } = keys[0];
  check(kty === "RSA" && use === "enc" && alg === ALG && e === "AQAB" && typeof n === "string", what, expected);
  const modulus = fromBase64url(n, what, expected);
  const bits = modulus.length * 8 - Math.clz32(modulus[0] ?? 0) + 24;
  check(modulus[0] !== 0 && bits >= MIN_KEY_BITS && bits <= MAX_KEY_BITS, what, expected);
  const digest = await sha256(JSON.stringify({ e, kty, n }));
  const thumbprint = toBase64url(digest);
  check(kid === undefined || kid === thumbprint, what, "a key whose kid is its RFC 7638 thumbprint");
  const usage = { name: "RSA-OAEP", hash: "SHA-256" };
  const recipient = await crypto.subtle.importKey("jwk", { kty, n, e }, usage, false, ["wrapKey"]).catch(() => {
    throw new Malformed(what, expected);
  });
  return { recipient, thumbprint, fingerprint: proquints(digest.subarray(0, 16)) };
}

function checkedPayload(credential) {
  const kind = credential?.kind;
  check(typeof kind === "string" && Object.hasOwn(KINDS, kind), "kind of credential", Object.keys(KINDS).join(", "));
  const { fields } = KINDS[kind];
  const surplus = Object.keys(credential).some((name) => name !== "kind" && !Object.hasOwn(fields, name));
  check(!surplus, "credential", `kind, ${Object.keys(fields).join(", ")} and nothing else`);
  const checked = Object.entries(fields).map(([name, field]) => {
    const value = credential[name] ?? field.otherwise;
    check(typeof value === "string" && field.holds(value), field.what, field.expected);
    return [name, value];
  });
  return { kind, ...Object.fromEntries(checked) };
}

function moment(expires) {
  if (expires == null) return null;
  const at = typeof expires === "string" ? readMoment(expires) : expires;
  const known = at instanceof Date && at.getTime() >= FIRST_MOMENT && at.getTime() <= LAST_MOMENT;
  check(known, "expiry", "an ISO 8601 date or time, such as 2027-03-01 or 2027-03-01T00:00:00Z");
  return at.toISOString();
}

/** A date begins at midnight; without a zone it is UTC. */
function readMoment(text) {
  const [, day, time = "00:00", zone = "Z"] = MOMENT.exec(text) ?? [];
  return isDay(day) ? new Date(`${day}T${time}${zone}`) : null;
}

/** Where 30 February is read as 2 March, it is a mistake all the same. */
function isDay(date) {
  const day = new Date(date);
  return !Number.isNaN(day.getTime()) && day.toISOString().startsWith(date);
}

// JWE

async function encrypt(header, plaintext, recipient) {
  const { subtle } = crypto;
  const contentKey = await subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]);
  const wrapped = new Uint8Array(await subtle.wrapKey("raw", contentKey, recipient, "RSA-OAEP"));
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  const protectedHeader = toBase64url(new TextEncoder().encode(JSON.stringify(header)));
  const additionalData = new TextEncoder().encode(protectedHeader);
  const algorithm = { name: "AES-GCM", iv, additionalData, tagLength: TAG_BYTES * 8 };
  const sealed = new Uint8Array(await subtle.encrypt(algorithm, contentKey, plaintext));
  const ciphertext = sealed.subarray(0, -TAG_BYTES);
  const tag = sealed.subarray(-TAG_BYTES);
  return [protectedHeader, ...[wrapped, iv, ciphertext, tag].map(toBase64url)].join(".");
}

// Certificates: as much DER (X.690) as it takes to find a validity and a public key (RFC 5280 §4.1)

const INTEGER = 0x02;
const OCTET_STRING = 0x04;
const SEQUENCE = 0x30;
const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;
const VERSION = 0xa0;
/** The algorithm identifier of RSA keys, as hex: Entra ID takes no others. */
const RSA = "300d06092a864886f70d0101010500";
const SIGNING = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
const PRIVATE_LABELS = ["PRIVATE KEY", "RSA PRIVATE KEY"];

/** notAfter of the certificate, as ISO 8601. What the private key signs, the certificate's public key verifies. */
async function checkPair({ certificate_pem, private_key_pem }) {
  const certificate = readPem(certificate_pem, ["CERTIFICATE"], "certificate");
  const { notAfter, publicKey, algorithm } = readCertificate(certificate.der);
  check(toHex(algorithm) === RSA, "certificate", "one with an RSA key, the only kind that can sign in");
  const { label, der } = readPem(private_key_pem, PRIVATE_LABELS, "private key");
  const pkcs8 = label === "PRIVATE KEY" ? der : asPkcs8(algorithm, der);
  const probe = new Uint8Array(32);
  try {
    const [signer, verifier] = await Promise.all([
      crypto.subtle.importKey("pkcs8", pkcs8, SIGNING, false, ["sign"]),
      crypto.subtle.importKey("spki", publicKey, SIGNING, false, ["verify"]),
    ]).catch(() => {
      throw new Malformed("private key", "an unencrypted PEM private key, RSA like the certificate's");
    });
    const signature = await crypto.subtle.sign(SIGNING.name, signer, probe);
    const matches = await crypto.subtle.verify(SIGNING.name, verifier, signature, probe);
    check(matches, "private key", "the private key of the certificate next to it");
  } finally {
    der.fill(0);
    pkcs8.fill(0);
  }
  return notAfter;
}

function readCertificate(der) {
  const [certificate] = elements(der, 0, der.length);
  const [body] = elements(der, ...inside(certificate, SEQUENCE));
  const fields = elements(der, ...inside(body, SEQUENCE));
  if (fields[0]?.tag === VERSION) fields.shift();
  const [, , , validity, , publicKey] = fields;
  const [, notAfter] = elements(der, ...inside(validity, SEQUENCE));
  const [algorithm] = elements(der, ...inside(publicKey, SEQUENCE));
  return {
    notAfter: readTime(notAfter, der),
    publicKey: der.slice(publicKey.from, publicKey.to),
    algorithm: der.slice(algorithm.from, algorithm.to),
  };
}

/** The elements between two offsets: { tag, from, content, to }, all offsets. */
function elements(der, from, to) {
  const found = [];
  for (let at = from; at < to; at = found.at(-1).to) {
    const first = der[at + 1];
    const more = first > 0x80 ? first - 0x80 : 0;
    const content = at + 2 + more;
    check(first !== 0x80 && more <= 3 && content <= to, "certificate", "a PEM certificate");
    const length = more ? der.slice(at + 2, content).reduce((sum, byte) => sum * 256 + byte, 0) : first;
    check(content + length <= to, "certificate", "a PEM certificate");
    found.push({ tag: der[at], from: at, content, to: content + length });
  }
  return found;
}

function inside(element, tag) {
  check(element?.tag === tag, "certificate", "a PEM certificate");
  return [element.content, element.to];
}

/** UTCTime has two digits of the year, of which those from 50 on belong to the last century. */
function readTime(element, der) {
  const tagged = element?.tag === UTC_TIME || element?.tag === GENERALIZED_TIME;
  const digits = tagged ? String.fromCharCode(...der.subarray(element.content, element.to)) : "";
  const century = element?.tag === GENERALIZED_TIME ? "" : Number(digits.slice(0, 2)) < 50 ? "20" : "19";
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(century + digits);
  check(parts, "certificate", "a PEM certificate");
  const [, year, month, day, hour, minute, second] = parts;
  return `${year}-${month}-${day}T${hour}:${minute}:${second}Z`;
}

/** RFC 5958: the bare key of a traditional PEM file, with the algorithm that its certificate names. */
function asPkcs8(algorithm, key) {
  const version = [INTEGER, 1, 0];
  const length = version.length + algorithm.length + headOf(OCTET_STRING, key.length).length + key.length;
  return Uint8Array.from([
    ...headOf(SEQUENCE, length), ...version, ...algorithm, ...headOf(OCTET_STRING, key.length), ...key,
  ]);
}

function headOf(tag, length) {
  if (length < 0x80) return [tag, length];
  return length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
}

/** { label, der } of the first block with one of these labels. */
function readPem(value, labels, what) {
  const block = new RegExp(`-----BEGIN (${labels.join("|")})-----([A-Za-z0-9+/=\\s]+)-----END \\1-----`).exec(value);
  check(block, what, what === "certificate" ? "a PEM certificate" : "an unencrypted PEM private key");
  return { label: block[1], der: fromBase64(block[2].replace(/\s/g, ""), what, "PEM") };
}

// Bytes and text

function check(holds, what, expected) {
  if (!holds) throw new Malformed(what, expected);
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function parseJson(value, what, expected) {
  check(value.length <= MAX_JWKS_CHARACTERS, what, expected);
  try {
    return JSON.parse(value);
  } catch {
    throw new Malformed(what, expected);
  }
}

async function sha256(value) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(value)));
}

function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function toBase64url(bytes) {
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function fromBase64url(value, what, expected) {
  check(/^[A-Za-z0-9_-]*$/.test(value), what, expected);
  const bytes = fromBase64(value.replace(/-/g, "+").replace(/_/g, "/"), what, expected);
  check(toBase64url(bytes) === value, what, expected);
  return bytes;
}

function fromBase64(value, what, expected) {
  try {
    return Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
  } catch {
    throw new Malformed(what, expected);
  }
}

/** arXiv:0901.4016, two bytes to a word. */
function proquints(bytes) {
  const consonants = "bdfghjklmnprstvz";
  const vowels = "aiou";
  const word = (number) =>
    consonants[number >> 12] + vowels[(number >> 10) & 3] + consonants[(number >> 6) & 15] +
    vowels[(number >> 4) & 3] + consonants[number & 15];
  return Array.from({ length: bytes.length / 2 }, (_, at) => word((bytes[2 * at] << 8) | bytes[2 * at + 1])).join("-");
}
