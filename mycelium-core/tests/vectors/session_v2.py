#!/usr/bin/env python3
"""Known-answer vectors of session v2 (docs/protocol.md sections 14 and 15), from nothing but the Python standard library.

    python3 session_v2.py > session_v2.json

Independent of the Rust code on purpose: X25519, ChaCha20-Poly1305, XChaCha20-Poly1305, AES-256-GCM, BLAKE3 and ML-KEM-768 are
written here from their specifications, for clarity and not for secrets (nothing is constant-time). Each is checked against
published vectors before anything is printed.
"""

import hashlib
import hmac
import json
import struct

# --- X25519 (RFC 7748) ------------------------------------------------------------------------------------------------------

P = 2**255 - 19


def x25519(scalar, u=b"\x09" + bytes(31)):
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(u, "little") & ~(1 << 255)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = pow(da + cb, 2, P), x1 * pow(da - cb, 2, P) % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


# --- ChaCha20-Poly1305 (RFC 8439), XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) ---------------------------------------------

SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def chacha_rounds(state):
    s = list(state)

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = s[x] + s[y] & 0xFFFFFFFF
            v = s[z] ^ s[x]
            s[z] = (v << turn | v >> 32 - turn) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return s


def chacha_stream(key, nonce, counter, length):
    out = b""
    while len(out) < length:
        state = [*SIGMA, *struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)]
        block = [a + b & 0xFFFFFFFF for a, b in zip(chacha_rounds(state), state)]
        out += struct.pack("<16I", *block)
        counter += 1
    return out[:length]


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    acc = 0
    for i in range(0, len(message), 16):
        acc = (acc + int.from_bytes(message[i : i + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return (acc + int.from_bytes(key[16:], "little") & 2**128 - 1).to_bytes(16, "little")


def chacha_seal(key, nonce, aad, plaintext):
    sealed = xor(plaintext, chacha_stream(key, nonce, 1, len(plaintext)))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, sealed))
    lengths = struct.pack("<2Q", len(aad), len(sealed))
    return sealed + poly1305(chacha_stream(key, nonce, 0, 32), padded + lengths)


def xchacha_seal(key, nonce, aad, plaintext):
    words = chacha_rounds([*SIGMA, *struct.unpack("<8I", key), *struct.unpack("<4I", nonce[:16])])
    subkey = struct.pack("<8I", *words[:4], *words[12:])
    return chacha_seal(subkey, bytes(4) + nonce[16:], aad, plaintext)


# --- AES-256-GCM (FIPS 197, SP 800-38D) -------------------------------------------------------------------------------------


def aes_tables():
    sbox, p, q = [0] * 256, 1, 1
    while True:
        p = p ^ (p << 1) & 0xFF ^ (0x1B if p & 0x80 else 0)
        for shift in (1, 2, 4):
            q = (q ^ q << shift) & 0xFF
        q ^= 0x09 if q & 0x80 else 0
        turned = 0
        for turn in range(5):
            turned ^= (q << turn | q >> 8 - turn) & 0xFF
        sbox[p] = turned ^ 0x63
        if p == 1:
            break
    sbox[0] = 0x63
    return sbox


SBOX = aes_tables()


def aes_round_keys(key):
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    rcon = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ rcon]) + word[1:]
            rcon <<= 1
        elif i % 8 == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(xor(words[i - 8], word))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def aes_block(round_keys, block):
    double = lambda b: (b << 1 ^ (0x1B if b & 0x80 else 0)) & 0xFF
    state = xor(block, round_keys[0])
    for number, round_key in enumerate(round_keys[1:], 1):
        state = bytes(SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16))
        if number < 14:
            mixed = []
            for c in range(0, 16, 4):
                column = state[c : c + 4]
                every = column[0] ^ column[1] ^ column[2] ^ column[3]
                mixed += [column[i] ^ every ^ double(column[i] ^ column[(i + 1) % 4]) for i in range(4)]
            state = bytes(mixed)
        state = xor(state, round_key)
    return state


def aes_seal(key, nonce, aad, plaintext):
    round_keys = aes_round_keys(key)
    block = lambda n: aes_block(round_keys, nonce + struct.pack(">I", n))
    blocks = (len(plaintext) + 15) // 16
    sealed = xor(plaintext, b"".join(block(n) for n in range(2, 2 + blocks)))
    h = int.from_bytes(aes_block(round_keys, bytes(16)), "big")
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, sealed))
    padded += struct.pack(">2Q", 8 * len(aad), 8 * len(sealed))
    acc = 0
    for i in range(0, len(padded), 16):
        x, v, acc = acc ^ int.from_bytes(padded[i : i + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            acc ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return sealed + xor(acc.to_bytes(16, "big"), block(1))


# --- BLAKE3 (its paper, section 2) ------------------------------------------------------------------------------------------

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = (1 << n for n in range(7))


def blake3_compress(cv, block, counter, flags):
    m = struct.unpack("<16I", block + bytes(64 - len(block)))
    s = [*cv, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, len(block), flags]

    def mix(a, b, c, d, x, y):
        for word, first, second in ((x, 16, 12), (y, 8, 7)):
            s[a] = s[a] + s[b] + word & 0xFFFFFFFF
            v = s[d] ^ s[a]
            s[d] = (v >> first | v << 32 - first) & 0xFFFFFFFF
            s[c] = s[c] + s[d] & 0xFFFFFFFF
            v = s[b] ^ s[c]
            s[b] = (v >> second | v << 32 - second) & 0xFFFFFFFF

    for _ in range(7):
        for i in range(4):
            mix(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1])
        for i in range(4):
            mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i])
        m = [m[i] for i in PERMUTATION]
    return [s[i] ^ s[i + 8] for i in range(8)]


def blake3_tree(key, flags, data, counter=0, root=True):
    """Chaining value of a subtree whose first chunk is number `counter`."""
    if len(data) <= 1024:
        blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
        cv = key
        for i, block in enumerate(blocks):
            first = CHUNK_START if i == 0 else 0
            last = (CHUNK_END | (ROOT if root else 0)) if i == len(blocks) - 1 else 0
            cv = blake3_compress(cv, block, counter, flags | first | last)
        return cv
    chunks = (len(data) - 1) // 1024
    left = 1 << chunks.bit_length() - 1
    children = blake3_tree(key, flags, data[: 1024 * left], counter, False)
    children += blake3_tree(key, flags, data[1024 * left :], counter + left, False)
    return blake3_compress(key, struct.pack("<16I", *children), 0, flags | PARENT | (ROOT if root else 0))


def blake3(data):
    return struct.pack("<8I", *blake3_tree(list(IV), 0, data))


def blake3_keyed(key, data):
    return struct.pack("<8I", *blake3_tree(list(struct.unpack("<8I", key)), KEYED, data))


def blake3_derive(context, material):
    key = blake3_tree(list(IV), CONTEXT, context.encode())
    return struct.pack("<8I", *blake3_tree(key, MATERIAL, material))


# --- ML-KEM-768 (FIPS 203) --------------------------------------------------------------------------------------------------

Q, N, K = 3329, 256, 3
ZETAS = [pow(17, int(f"{i:07b}"[::-1], 2), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * int(f"{i:07b}"[::-1], 2) + 1, Q) for i in range(128)]


def ntt(f):
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def inverse_ntt(f):
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i - 1
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f, g):
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def add(f, g):
    return [(a + b) % Q for a, b in zip(f, g)]


def dot(fs, gs):
    total = [0] * N
    for f, g in zip(fs, gs):
        total = add(total, multiply(f, g))
    return total


def encode(f, bits):
    return sum(x << bits * i for i, x in enumerate(f)).to_bytes(32 * bits, "little")


def decode(data, bits):
    number = int.from_bytes(data, "little")
    return [number >> bits * i & (1 << bits) - 1 for i in range(N)]


def compress(f, bits):
    return [((x << bits) + Q // 2) // Q % (1 << bits) for x in f]


def decompress(f, bits):
    return [(x * Q + (1 << bits - 1)) >> bits for x in f]


def sample_ntt(seed):
    stream, f = hashlib.shake_128(seed).digest(4096), []
    for i in range(0, 4096, 3):
        a, b, c = stream[i : i + 3]
        f += [x for x in (a + 256 * (b % 16), b // 16 + 16 * c) if x < Q]
        if len(f) >= N:
            return f[:N]


def sample_cbd(seed, number):
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([number])).digest(128), "little")
    coin = lambda i: bits >> i & 1
    return [(coin(4 * i) + coin(4 * i + 1) - coin(4 * i + 2) - coin(4 * i + 3)) % Q for i in range(N)]


def matrix(rho):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def ml_kem_keygen(seed):
    """Encapsulation key and decapsulation key of d || z."""
    g = hashlib.sha3_512(seed[:32] + bytes([K])).digest()
    rho, sigma = g[:32], g[32:]
    s = [ntt(sample_cbd(sigma, i)) for i in range(K)]
    e = [ntt(sample_cbd(sigma, K + i)) for i in range(K)]
    t = [add(dot(row, s), error) for row, error in zip(matrix(rho), e)]
    ek = b"".join(encode(f, 12) for f in t) + rho
    dk = b"".join(encode(f, 12) for f in s)
    return ek, dk + ek + hashlib.sha3_256(ek).digest() + seed[32:]


def pke_encrypt(ek, message, randomness):
    t, rho = [decode(ek[384 * i :][:384], 12) for i in range(K)], ek[1152:]
    a = matrix(rho)
    y = [ntt(sample_cbd(randomness, i)) for i in range(K)]
    e1 = [sample_cbd(randomness, K + i) for i in range(K)]
    e2 = sample_cbd(randomness, 2 * K)
    u = [add(inverse_ntt(dot([a[j][i] for j in range(K)], y)), e1[i]) for i in range(K)]
    v = add(add(inverse_ntt(dot(t, y)), e2), decompress(decode(message, 1), 1))
    return b"".join(encode(compress(f, 10), 10) for f in u) + encode(compress(v, 4), 4)


def ml_kem_encaps(ek, m):
    """Ciphertext and secret for the random bytes m."""
    g = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    return pke_encrypt(ek, m, g[32:]), g[:32]


def ml_kem_decaps(dk, ct):
    s, ek, h, z = [decode(dk[384 * i :][:384], 12) for i in range(K)], dk[1152:2336], dk[2336:2368], dk[2368:]
    u = [ntt(decompress(decode(ct[320 * i :][:320], 10), 10)) for i in range(K)]
    v = decompress(decode(ct[960:], 4), 4)
    w = [(a - b) % Q for a, b in zip(v, inverse_ntt(dot(s, u)))]
    m = encode(compress(w, 1), 1)
    g = hashlib.sha3_512(m + h).digest()
    return g[:32] if pke_encrypt(ek, m, g[32:]) == ct else hashlib.shake_256(z + ct).digest(32)


# --- Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (revision 34) --------------------------------------------------------------------


def blake2s(data):
    return hashlib.blake2s(data).digest()


def hkdf(chaining, material, outputs):
    key, out = hmac.digest(chaining, material, "blake2s"), [b""]
    for n in range(1, outputs + 1):
        out.append(hmac.digest(key, out[-1] + bytes([n]), "blake2s"))
    return out[1:]


class Symmetric:
    def __init__(self, prologue, responder):
        self.ck = self.h = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        self.mix_hash(prologue)
        self.mix_hash(responder)

    def mix_hash(self, data):
        self.h = blake2s(self.h + data)

    def mix_key(self, material):
        self.ck, self.k = hkdf(self.ck, material, 2)
        self.n = 0

    def mix_key_and_hash(self, material):
        self.ck, middle, self.k = hkdf(self.ck, material, 3)
        self.mix_hash(middle)
        self.n = 0

    def ephemeral(self, public):
        self.mix_hash(public)
        self.mix_key(public)
        return public

    def seal(self, plaintext):
        sealed = chacha_seal(self.k, bytes(4) + struct.pack("<Q", self.n), self.h, plaintext)
        self.n += 1
        self.mix_hash(sealed)
        return sealed


# --- Session v2 -------------------------------------------------------------------------------------------------------------


def address(public):
    """Section 1.2."""
    a = bytearray(blake3(public)[:16])
    a[0] = 4 | bin(a[0]).count("1") & 1
    return bytes(a)


def kem_case(seed):
    """ML-KEM-768 alone: also a ciphertext that nobody made, which gives a secret all the same (implicit rejection)."""
    d_z, m = hashlib.sha512(seed).digest(), hashlib.sha256(seed).digest()
    ek, dk = ml_kem_keygen(d_z)
    ct, secret = ml_kem_encaps(ek, m)
    changed = bytes([ct[0] ^ 1]) + ct[1:]
    assert ml_kem_decaps(dk, ct) == secret
    return {"seed": d_z.hex(), "randomness": m.hex(), "encapsulation_key": blake3(ek).hex(), "ciphertext": ct.hex(),
            "secret": secret.hex(), "secret_of_changed": ml_kem_decaps(dk, changed).hex()}


def mac(key, data):
    return blake3_keyed(key, data)[:16]


def units(kind, message, sender, receiver, scope, recipient, netkey):
    """The two units up to and including MAC1; what replaces the last field follows."""
    mac1_key = blake3_derive("mycelium session v2 mac1", recipient + netkey)
    half, out = len(message) // 2, []
    for number in range(2):
        unit = bytes([kind, 0x20 | number, 0, 0]) + struct.pack(">2I", sender, receiver) + blake3(message)[:8]
        unit += message[number * half :][:half]
        out.append(unit + mac(mac1_key, scope + unit))
    return out


def with_mac2(bare, cookie):
    return [unit + mac(blake3_derive("mycelium session v2 mac2", cookie), unit) for unit in bare]


def datagrams(seal, key, index):
    """Section 15.2 and 15.3, from I to R: data of both kinds, control, and a half; around a turn of the low counter."""
    inner = bytes([64]) + bytes(range(4, 20)) + bytes(range(5, 21))
    long, short = bytes(i % 251 for i in range(300)), b"v1"
    frames = b"\x03\x00\x04\x01\x02\x03\x04" + b"\x07\x00\x12" + bytes(10) + b"\xff\xff\xc0\x00\x02\x07\x25\xb3" + bytes(9)
    half = b"\x00\x00\x00\x2a" + long[:100]
    out = []
    for kind, counter, text, body in ((5, 0, inner, long), (6, 1, frames, b""), (10, 2**32 - 1, inner, short), (8, 2**32 + 5, half, b""), (11, 2**32 + 6, inner, long), (12, 2**32 + 7, inner, short)):
        head = bytes([kind]) + struct.pack(">2I", index, counter & 0xFFFFFFFF)
        length = struct.pack(">H", len(body))
        aad = head + {5: length + body[-16:], 10: length + body, 11: length + body[-16:], 12: length + body}.get(kind, b"")
        sealed = seal(key, bytes(4) + struct.pack(">Q", counter), aad, text)
        datagram = head + sealed[-16:] + sealed[:-16] + body
        out.append({"type": kind, "counter": counter, "sealed": text.hex(), "body": body.hex(), "datagram": datagram.hex()})
    return out


def who(public, netkey):
    """Section 15.1."""
    key, nonce = blake3_derive("mycelium session v2 who", netkey), bytes(range(50, 58))
    request, reply = b"\x07\x00" + nonce + bytes(54), b"\x07\x01" + nonce + public
    return {"nonce": nonce.hex(), "request": (request + mac(key, request)).hex(), "reply": (reply + mac(key, reply)).hex()}


def case(name, link, netkey, i_aes, r_aes, seed):
    secret = lambda label: hashlib.sha256(f"{seed} {label}".encode()).digest()
    s_i, s_r, e_i, e_r = (secret(label) for label in ("static I", "static R", "ephemeral I", "ephemeral R"))
    kem_seed, kem_m = secret("kem d") + secret("kem z"), secret("kem m")
    index_i, index_r, timestamp = 0x01020304, 0xF0E0D0C0, struct.pack(">QI", 1_790_000_000, 123_456_789)
    S_i, S_r = x25519(s_i), x25519(s_r)
    source, destination = address(S_i), address(S_r)
    prologue = b"mycelium session v2" + bytes([link]) + (bytes(16) if link else source) + destination

    noise = Symmetric(prologue, S_r)
    one = noise.ephemeral(x25519(e_i))
    noise.mix_key(x25519(e_i, S_r))
    one += noise.seal(S_i)
    noise.mix_key(x25519(s_i, S_r))
    reply_key = blake3_derive("mycelium session v2 reply", noise.ck)
    ek, dk = ml_kem_keygen(kem_seed)
    payload = struct.pack(">I", index_i) + timestamp + bytes([2 | i_aes, 0, 0, 0]) + ek
    one += noise.seal(payload)

    ct, kem_secret = ml_kem_encaps(ek, kem_m)
    assert ml_kem_decaps(dk, ct) == kem_secret
    two = ct + noise.ephemeral(x25519(e_r))
    noise.mix_key(x25519(e_r, x25519(e_i)))
    noise.mix_key(x25519(e_r, S_i))
    psk = blake3_derive("mycelium session v2 psk", kem_secret + blake3(ek) + blake3(ct) + netkey)
    noise.mix_key_and_hash(psk)
    suite = 1 if i_aes and r_aes else 2
    two += noise.seal(struct.pack(">I", index_r) + bytes([suite, 0, 0, 0]))
    keys = [
        blake3_derive("mycelium session v2 transport", k + bytes([suite, direction]))
        for direction, k in enumerate(hkdf(noise.ck, b"", 2))
    ]

    scope = b"" if link else source + destination
    first = units(1, one, index_i, 0, scope, S_r, netkey)
    scope = b"" if link else destination + source
    second = units(2, two, index_r, index_i, scope, S_i, netkey)
    second = [unit + mac(reply_key, unit) for unit in second]

    cookie_secret, nonce = secret("cookie"), secret("cookie nonce")[:24]
    return_address = bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + struct.pack(">H", 9651) if link else source
    cookie = mac(cookie_secret, return_address)
    cookie_key = blake3_derive("mycelium session v2 cookie", S_r + netkey)
    reply = bytes([3, 0x10, 0, 0]) + struct.pack(">2I", 0, index_i)
    reply += nonce + xchacha_seal(cookie_key, nonce, first[0][-16:], cookie)

    seal = aes_seal if suite == 1 else chacha_seal
    bodies = []
    for direction, counter, length in ((0, 0, 8), (0, 1, 1368), (1, 0, 100), (1, 2**33 - 2**20 - 1, 33)):
        index = (index_r, index_i)[direction]
        ends = (source, destination) if direction == 0 else (destination, source)
        plaintext = bytes((7 * i + counter) % 256 for i in range(length))
        aad = ends[0] + ends[1] + struct.pack(">I", index)
        sealed = seal(keys[direction], bytes(6) + counter.to_bytes(6, "big"), aad, plaintext)
        body = struct.pack(">I", index) + counter.to_bytes(6, "big") + sealed
        bodies.append({"direction": direction, "counter": counter, "plaintext": plaintext.hex(), "body": body.hex()})

    on_link = {"datagrams": datagrams(seal, keys[0], index_r), "who": who(S_r, netkey)} if link else {}
    return {
        "name": name,
        "link": link,
        "network_key": netkey.hex(),
        "initiator": {"static": s_i.hex(), "ephemeral": e_i.hex(), "kem_seed": kem_seed.hex(), "index": index_i,
                      "timestamp": timestamp.hex(), "aes": i_aes, "public": S_i.hex(), "address": source.hex()},
        "responder": {"static": s_r.hex(), "ephemeral": e_r.hex(), "kem_randomness": kem_m.hex(), "index": index_r,
                      "aes": r_aes, "public": S_r.hex(), "address": destination.hex()},
        "message_1": one.hex(),
        "message_2": two.hex(),
        "suite": suite,
        "transport_keys": [key.hex() for key in keys],
        "units_1": [(unit + bytes(16)).hex() for unit in first],
        "units_1_with_cookie": [unit.hex() for unit in with_mac2(first, cookie)],
        "units_2": [unit.hex() for unit in second],
        "cookie": {"secret": cookie_secret.hex(), "return_address": return_address.hex(), "cookie": cookie.hex(),
                   "nonce": nonce.hex(), "reply": reply.hex()},
        "bodies": bodies,
        **on_link,
    }


# --- The building blocks against published vectors --------------------------------------------------------------------------


def check():
    h = bytes.fromhex
    # RFC 7748, 5.2
    scalar = h("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = h("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, point) == h("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    # RFC 8439, 2.8.2; draft-irtf-cfrg-xchacha, A.3.1
    key, aad = bytes(range(0x80, 0xA0)), h("50515253c0c1c2c3c4c5c6c7")
    text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
    sealed = chacha_seal(key, h("070000004041424344454647"), aad, text)
    assert sealed.endswith(h("1ae10b594f09e26a7e902ecbd0600691"))
    sealed = xchacha_seal(key, bytes(range(0x40, 0x58)), aad, text)
    assert sealed.endswith(h("c0875924c1c7987947deafd8780acf49"))
    # The GCM specification, test cases 14 and 16
    sealed = aes_seal(bytes(32), bytes(12), b"", bytes(16))
    assert sealed == h("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    text = h("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
             "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
    sealed = aes_seal(h("feffe9928665731c6d6a8f9467308308") * 2, h("cafebabefacedbaddecaf888"),
                      h("feedfacedeadbeeffeedfacedeadbeefabaddad2"), text)
    assert sealed.endswith(h("76fc6ece0f4e1768cddf8853bb2d551b"))
    # BLAKE3's test_vectors.json, lengths 0 and 1025
    text = bytes(i % 251 for i in range(1025))
    assert blake3(b"") == h("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    assert blake3(text) == h("d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444")
    key, context = b"whats the Elvish word for friend", "BLAKE3 2019-12-27 16:29:52 test vectors context"
    assert blake3_keyed(key, b"") == h("92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26")
    assert blake3_derive(context, b"") == h("2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d")
    # RFC 9935, its example key, of the seed 00 01 .. 3f (as a hash)
    ek, dk = ml_kem_keygen(bytes(range(64)))
    assert hashlib.sha256(ek).hexdigest() == "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9"
    ct, secret = ml_kem_encaps(ek, bytes(32))
    assert ml_kem_decaps(dk, ct) == secret != ml_kem_decaps(dk, bytes(1088))


if __name__ == "__main__":
    check()
    none, key = bytes(32), bytes(range(1, 33))
    cases = [
        case("end to end, AES", 0, none, 1, 1, "one"),
        case("end to end, only the initiator has AES", 0, none, 1, 0, "two"),
        case("end to end, network key", 0, key, 0, 1, "three"),
        case("link, AES, network key", 1, key, 1, 1, "four"),
        case("link, ChaCha20", 1, none, 0, 0, "five"),
    ]
    kem = [kem_case(bytes([n])) for n in range(3)]
    print(json.dumps({"source": "session_v2.py", "cases": cases, "kem": kem}, indent=1))
