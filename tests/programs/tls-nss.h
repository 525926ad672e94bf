/* NSS: each server signs its own certificate, and the client accepts any. NSPR's functions are called in
 * turn. */
#include <cert.h>
#include <cryptohi.h>
#include <keyhi.h>
#include <nss.h>
#include <pk11pub.h>
#include <private/pprio.h>
#include <secder.h>
#include <ssl.h>

struct peer {
    enum side side;
    int fd;
    PRFileDesc *descriptor;
    unsigned calls;
};

/* NSS must be initialised in each process: it does not survive fork(2). */
static void library_start(void) {}

static CERTCertificate *make_certificate(SECKEYPrivateKey **private_key) {
    static unsigned char p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    SECItem curve = {siBuffer, p256, sizeof p256}, body = {}, whole = {};
    SECKEYPublicKey *key;
    *private_key = PK11_GenerateKeyPair(PK11_GetInternalKeySlot(), CKM_EC_KEY_PAIR_GEN, &curve, &key, PR_FALSE, PR_TRUE, NULL);
    if (*private_key == NULL) fail("PK11_GenerateKeyPair: %d", PR_GetError());
    CERTName *name = CERT_AsciiToName("CN=test");
    CERTCertificateRequest *request = CERT_CreateCertificateRequest(name, SECKEY_CreateSubjectPublicKeyInfo(key), NULL);
    CERTValidity *validity = CERT_CreateValidity(PR_Now() - PR_USEC_PER_SEC, PR_Now() + 3600L * PR_USEC_PER_SEC);
    CERTCertificate *certificate = CERT_CreateCertificate(1, name, validity, request);
    const SECOidTag algorithm = SEC_OID_ANSIX962_ECDSA_SHA256_SIGNATURE;
    SECOID_SetAlgorithmID(certificate->arena, &certificate->signature, algorithm, NULL);
    SEC_ASN1EncodeItem(certificate->arena, &body, certificate, SEC_ASN1_GET(CERT_CertificateTemplate));
    if (SEC_DerSignData(certificate->arena, &whole, body.data, (int)body.len, *private_key, algorithm) != SECSuccess)
        fail("SEC_DerSignData: %d", PR_GetError());
    return CERT_NewTempCertificate(CERT_GetDefaultCertDB(), &whole, NULL, PR_FALSE, PR_TRUE);
}

static void serve(PRFileDesc *descriptor) {
    static CERTCertificate *certificate;
    static SECKEYPrivateKey *private_key;
    if (certificate == NULL) certificate = make_certificate(&private_key);
    if (certificate == NULL || SSL_ConfigServerSessionIDCache(0, 0, 0, "/tmp") != SECSuccess ||
        SSL_ConfigServerCert(descriptor, certificate, private_key, NULL, 0) != SECSuccess)
        fail("SSL_ConfigServerCert: %d", PR_GetError());
}

static SECStatus take_any(void *context, PRFileDesc *descriptor, PRBool check, PRBool is_server) {
    (void)context, (void)descriptor, (void)check, (void)is_server;
    return SECSuccess;
}

static void peer_open(struct peer *peer) {
    if (!NSS_IsInitialized() && NSS_NoDB_Init(NULL) != SECSuccess) fail("NSS_NoDB_Init: %d", PR_GetError());
    peer->descriptor = SSL_ImportFD(NULL, PR_ImportTCPSocket(dup(peer->fd)));
    if (peer->descriptor == NULL) fail("SSL_ImportFD: %d", PR_GetError());
    if (peer->side == SERVER) serve(peer->descriptor);
    SSL_AuthCertificateHook(peer->descriptor, take_any, NULL);
    SSL_SetURL(peer->descriptor, "test");
    if (SSL_ResetHandshake(peer->descriptor, peer->side == SERVER) != SECSuccess)
        fail("SSL_ResetHandshake: %d", PR_GetError());
}

static int peer_handshake(struct peer *peer) {
    if (SSL_ForceHandshake(peer->descriptor) == SECSuccess) return 1;
    fprintf(stderr, "SSL_ForceHandshake: %d\n", PR_GetError());
    return 0;
}

/* The second buffer is empty, and the others have different lengths. */
static long send_pieces(struct peer *peer, char *data, int length) {
    int first = length / 3;
    PRIOVec pieces[3] = {{data, first}, {NULL, 0}, {data + first, length - first}};
    return PR_Writev(peer->descriptor, pieces, 3, PR_INTERVAL_NO_TIMEOUT);
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    switch (peer->calls++ % 3) {
    case 0: return PR_Write(peer->descriptor, data, (PRInt32)length);
    case 1: return PR_Send(peer->descriptor, data, (PRInt32)length, 0, PR_INTERVAL_NO_TIMEOUT);
    default: return send_pieces(peer, (char *)data, (int)length);
    }
}

/* Calls on a file, and peeks, must not be reported. */
static long peer_receive(struct peer *peer, void *data, size_t room) {
    if (peer->calls++ % 2 == 0) {
        PRFileDesc *file = PR_Open("/proc/self/exe", PR_RDONLY, 0);
        if (file == NULL || PR_Read(file, data, (PRInt32)room) <= 0) fail("PR_Read of a file: %d", PR_GetError());
        PR_Close(file);
        return PR_Read(peer->descriptor, data, (PRInt32)room);
    }
    PR_Recv(peer->descriptor, data, (PRInt32)room, PR_MSG_PEEK, PR_INTERVAL_NO_TIMEOUT);
    return PR_Recv(peer->descriptor, data, (PRInt32)room, 0, PR_INTERVAL_NO_TIMEOUT);
}

static void peer_close(struct peer *peer) {
    PR_Close(peer->descriptor);
}
