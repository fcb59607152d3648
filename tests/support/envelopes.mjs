/**
 * Opens what is sealed to a vault, as the keyholder does: the same checks in the same order. WebCrypto and nothing else,
 * and nothing of `clients/seal.js`, so that what that module seals is opened by another hand.
 *
 * A refusal is a `Rejected`; its `why` is a word of `tests/contract/vectors/envelopes.json`.
 */

const ALG = "RSA-OAEP-256";
const TYP = "tenantry-credential+jwe";
const MEMBERS = ["alg", "enc", "kid", "typ", "tid", "slot"];
/** Content encryption to the bytes of its iv, its tag and its key (RFC 7518 §5). */
const SIZES = { A256GCM: { iv: 12, tag: 16, key: 32 }, "A256CBC-HS512": { iv: 16, tag: 32, key: 64 } };
const MAX_ENVELOPE = 64 * 1024;
const MAX_HEADER = 1024;
const LEAST_ENCRYPTED_KEY = 2048 / 8;

const { subtle } = globalThis.crypto;
const ascii = new TextEncoder();
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class Rejected extends Error {
  constructor(why) {
    super(why);
    this.why = why;
  }
}

/** A private JWK as `openEnvelope` takes it: thumbprint to { key, size }. */
export async function keyring(thumbprint, jwk) {
  const usage = { name: "RSA-OAEP", hash: "SHA-256" };
  const key = await subtle.importKey("jwk", jwk, usage, false, ["decrypt"]);
  return { [thumbprint]: { key, size: fromBase64url(jwk.n).length } };
}

/** The payload's bytes. */
export async function openEnvelope(envelope, { tenant, slot, keys }) {
  const parts = measured(envelope);
  const { header } = parts;
  expect(header.tid === tenant, "tenant");
  expect(header.slot === slot, "slot");
  expect(Object.hasOwn(keys, header.kid), "key");
  const { key, size } = keys[header.kid];
  expect(parts.encryptedKey.length === size, "size");
  const contentKey = await unchanged(subtle.decrypt("RSA-OAEP", key, parts.encryptedKey));
  expect(contentKey.length === SIZES[header.enc].key, "size");
  return (header.enc === "A256GCM" ? withGcm : withCbc)(contentKey, parts);
}

function measured(envelope) {
  expect(envelope.length <= MAX_ENVELOPE, "oversize");
  const segments = envelope.split(".");
  expect(segments.length === 5, "form");
  expect(segments[0].length <= MAX_HEADER, "oversize");
  const [raw, encryptedKey, iv, ciphertext, tag] = segments.map(fromBase64url);
  const header = parsedHeader(raw);
  expect(header.typ === TYP, "typ");
  expect(header.alg === ALG, "alg");
  expect(Object.hasOwn(SIZES, header.enc), "enc");
  const sizes = SIZES[header.enc];
  expect(iv.length === sizes.iv && tag.length === sizes.tag, "size");
  expect(encryptedKey.length >= LEAST_ENCRYPTED_KEY, "size");
  return { header, authenticated: ascii.encode(segments[0]), encryptedKey, iv, ciphertext, tag };
}

/** What `JSON.parse` gives has every name once. Members that stand twice are found in the text, as they all are strings. */
function parsedHeader(raw) {
  const text = parsed(() => utf8.decode(raw));
  const header = parsed(() => JSON.parse(text));
  expect(header !== null && typeof header === "object", "header");
  const names = Object.keys(header);
  const known = names.length === MEMBERS.length && MEMBERS.every((name) => typeof header[name] === "string");
  const bare = text.replace(/"(?:[^"\\]|\\.)*"/g, "s").replace(/\s/g, "");
  expect(known && /^\{s:s(,s:s)*\}$/.test(bare), "header");
  expect(bare.split(":").length - 1 === MEMBERS.length, "duplicate");
  return header;
}

function parsed(parse) {
  try {
    return parse();
  } catch {
    throw new Rejected("header");
  }
}

async function withGcm(contentKey, { authenticated, iv, ciphertext, tag }) {
  const key = await subtle.importKey("raw", contentKey, "AES-GCM", false, ["decrypt"]);
  const algorithm = { name: "AES-GCM", iv, additionalData: authenticated, tagLength: 8 * tag.length };
  return unchanged(subtle.decrypt(algorithm, key, joined(ciphertext, tag)));
}

/** RFC 7518 §5.2.2.2. `contentKey`: the key of the hash, then the key of the cipher. */
export async function withCbc(contentKey, { authenticated, iv, ciphertext, tag }) {
  const half = contentKey.length / 2;
  const hash = { name: "HMAC", hash: "SHA-512" };
  const hashKey = await subtle.importKey("raw", contentKey.subarray(0, half), hash, false, ["sign"]);
  const bits = new DataView(new ArrayBuffer(8));
  bits.setBigUint64(0, BigInt(8 * authenticated.length));
  const covered = joined(authenticated, iv, ciphertext, new Uint8Array(bits.buffer));
  const expected = new Uint8Array(await subtle.sign("HMAC", hashKey, covered)).subarray(0, half);
  expect(expected.length === tag.length && expected.every((byte, at) => byte === tag[at]), "changed");
  const key = await subtle.importKey("raw", contentKey.subarray(half), "AES-CBC", false, ["decrypt"]);
  return unchanged(subtle.decrypt({ name: "AES-CBC", iv }, key, ciphertext));
}

async function unchanged(decrypted) {
  try {
    return new Uint8Array(await decrypted);
  } catch {
    throw new Rejected("changed");
  }
}

export function expect(holds, why) {
  if (!holds) throw new Rejected(why);
}

function joined(...parts) {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Without padding, and with no spare bit set. */
export function fromBase64url(text) {
  expect(/^[A-Za-z0-9_-]*$/.test(text) && text.length % 4 !== 1, "form");
  const binary = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  expect(toBase64url(bytes) === text, "form");
  return bytes;
}

export function toBase64url(bytes) {
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
