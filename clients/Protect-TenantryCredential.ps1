#Requires -Version 5.1
<#
.SYNOPSIS
Seals a credential to a vault's public key, before it leaves this machine.

.DESCRIPTION
Makes what "tenantry credential put" reads: a JSON object with the tenant, the slot, the kind, the identity, the expiry,
the envelope, and the SHA-256 digest of the envelope, which tells what was cut or changed on the way. The envelope is a
compact JWE (RFC 7516) with RSA-OAEP-256, and with A256GCM or, where the platform has no AES-GCM (Windows PowerShell
5.1), with A256CBC-HS512. Its protected header names the tenant, the slot and the key. Nothing is sent anywhere.

One file, no module to install. Windows PowerShell 5.1 needs .NET Framework 4.6 or later.

Secrets are asked for as secure strings, and the buffers they pass through are overwritten. That is best effort: the
runtime may have copied them before.

.PARAMETER PublicKey
The vault's public key: a file written by "tenantry vault public-key --out FILE", or its https address.

.PARAMETER Fingerprint
The eight words that "tenantry vault public-key" prints. The key is refused if its words are others. Required with an
address; without it, a file's words are shown as a warning, to be compared by eye.

.PARAMETER Tenant
Directory id of the tenant, a GUID.

.PARAMETER Kind
app-certificate, app-secret or service-account.

.PARAMETER ClientId
Application (client) id. For a service account: a public client, Microsoft's own when left out.

.PARAMETER UserName
User name of a service account.

.PARAMETER Credential
User name and password of a service account, instead of a prompt.

.PARAMETER Secret
The client secret, the password, or the password of the PFX file, instead of a prompt.

.PARAMETER Slot
entra (the default) signs in to Microsoft 365, exchange-server to the tenant's own Exchange Server.

.PARAMETER Certificate
PFX file with the certificate and its RSA private key.

.PARAMETER Expires
When a client secret or a password expires: an ISO 8601 date such as 2027-03-01, or a time such as
2027-03-01T12:00:00+01:00, in UTC unless it names its zone. A certificate says it itself.

.PARAMETER OutFile
Write the sealed credential to this file. Left out, it goes to the pipeline as text.

.PARAMETER SelfTest
Check this file's cryptography on this machine and seal nothing.

.EXAMPLE
.\Protect-TenantryCredential.ps1 -PublicKey .\vault.jwks -Tenant $id -Kind service-account -OutFile .\contoso.json

Asks for user name and password, and writes contoso.json.

.EXAMPLE
$vault = @{ PublicKey = 'https://vault.example/jwks.json'; Fingerprint = 'lusab-...' }
PS> .\Protect-TenantryCredential.ps1 @vault -Tenant $id -Kind app-certificate -ClientId $app -Certificate .\app.pfx

Takes certificate and private key out of a PFX file, whose password it asks for.

.EXAMPLE
.\Protect-TenantryCredential.ps1 -SelfTest

Lists the checks and fails if one of them does.
#>
[CmdletBinding(DefaultParameterSetName = 'Seal')]
[OutputType([string])]
param(
    [Parameter(Mandatory = $true, ParameterSetName = 'Seal')]
    [string] $PublicKey,
    [Parameter(ParameterSetName = 'Seal')]
    [ValidateNotNullOrEmpty()]
    [string] $Fingerprint,
    [Parameter(Mandatory = $true, ParameterSetName = 'Seal')]
    [string] $Tenant,
    [Parameter(Mandatory = $true, ParameterSetName = 'Seal')]
    [ValidateSet('app-certificate', 'app-secret', 'service-account')]
    [string] $Kind,
    [Parameter(ParameterSetName = 'Seal')]
    [string] $ClientId,
    [Parameter(ParameterSetName = 'Seal')]
    [string] $UserName,
    [Parameter(ParameterSetName = 'Seal')]
    [System.Management.Automation.PSCredential] $Credential,
    [Parameter(ParameterSetName = 'Seal')]
    [System.Security.SecureString] $Secret,
    [Parameter(ParameterSetName = 'Seal')]
    [ValidateSet('entra', 'exchange-server')]
    [string] $Slot = 'entra',
    [Parameter(ParameterSetName = 'Seal')]
    [string] $Certificate,
    [Parameter(ParameterSetName = 'Seal')]
    [ValidateNotNullOrEmpty()]
    [string] $Expires,
    [Parameter(ParameterSetName = 'Seal')]
    [string] $OutFile,
    [Parameter(Mandatory = $true, ParameterSetName = 'SelfTest')]
    [switch] $SelfTest
)

Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

$Alg = 'RSA-OAEP-256'
$Gcm = 'A256GCM'
$Cbc = 'A256CBC-HS512'
$Typ = 'tenantry-credential+jwe'
$HeaderForm = '{{"alg":"{0}","enc":"{1}","kid":"{2}","typ":"{3}","tid":"{4}","slot":"{5}"}}'
$AzurePowerShell = '1950a258-227b-4e31-a9cf-717495945fc2'
$MinKeyBits = 2048
$MaxKeyBits = 16384
$MaxJwksBytes = 65536
$MaxPayload = 16384
$MaxText = 256
$MaxSecret = 1024
$MaxPem = 12288
$PrivateMembers = 'd', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'
$GuidForm = '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z'
[string[]] $MomentForms = @(
    'yyyy-MM-dd'
    "yyyy-MM-dd'T'HH:mmK"
    "yyyy-MM-dd'T'HH:mm:ssK"
    "yyyy-MM-dd'T'HH:mm:ss.FFFFFFFK"
)
$Desktop = $PSVersionTable.PSEdition -ne 'Core'
$AesGcm = 'System.Security.Cryptography.AesGcm' -as [type]

function New-Refusal([string] $What, [string] $Expected) {
    "The $What cannot be used: expected $Expected."
}

# Bytes and text. A comma before an array keeps PowerShell from taking it apart.

function Clear-Buffer([Array] $Buffer) {
    if ($null -ne $Buffer) { [Array]::Clear($Buffer, 0, $Buffer.Length) }
}

function New-RandomBytes([int] $Count) {
    $bytes = [byte[]]::new($Count)
    $source = [System.Security.Cryptography.RandomNumberGenerator]::Create()
    try { $source.GetBytes($bytes) } finally { $source.Dispose() }
    , $bytes
}

function Join-Bytes([object[]] $Parts) {
    $length = 0
    foreach ($part in $Parts) { $length += $part.Length }
    $joined = [byte[]]::new($length)
    $at = 0
    foreach ($part in $Parts) {
        [Array]::Copy($part, 0, $joined, $at, $part.Length)
        $at += $part.Length
    }
    , $joined
}

function ConvertTo-Base64Url([byte[]] $Bytes) {
    [Convert]::ToBase64String($Bytes).TrimEnd('=').Replace('+', '-').Replace('/', '_')
}

function ConvertFrom-Base64Url([string] $Text) {
    $expected = New-Refusal 'vault public key' 'base64url without padding'
    if ($Text -cnotmatch '^[A-Za-z0-9_-]*\z' -or $Text.Length % 4 -eq 1) { throw $expected }
    $padded = $Text.Replace('-', '+').Replace('_', '/') + '=' * ((4 - $Text.Length % 4) % 4)
    $bytes = [Convert]::FromBase64String($padded)
    if ((ConvertTo-Base64Url $bytes) -cne $Text) { throw $expected }
    , $bytes
}

function ConvertTo-Hex([byte[]] $Bytes) {
    [BitConverter]::ToString($Bytes).Replace('-', '').ToLowerInvariant()
}

function ConvertFrom-Hex([string] $Text) {
    $bytes = [byte[]]::new($Text.Length / 2)
    for ($at = 0; $at -lt $bytes.Length; $at++) { $bytes[$at] = [Convert]::ToByte($Text.Substring(2 * $at, 2), 16) }
    , $bytes
}

function Get-TextDigest([string] $Text) {
    $sha256 = [System.Security.Cryptography.SHA256]::Create()
    try {
        [byte[]] $digest = $sha256.ComputeHash([System.Text.Encoding]::ASCII.GetBytes($Text))
    } finally {
        $sha256.Dispose()
    }
    , $digest
}

function ConvertTo-JsonText([string] $Text) {
    $escaped = foreach ($character in $Text.ToCharArray()) {
        $code = [int] $character
        $plain = $code -ge 32 -and $code -le 126 -and $code -ne 34 -and $code -ne 92
        if ($plain) { [string] $character } else { '\u{0:x4}' -f $code }
    }
    '"' + (-join $escaped) + '"'
}

function Copy-SecureText([System.Security.SecureString] $Secure) {
    $characters = [char[]]::new($Secure.Length)
    $pointer = [System.Runtime.InteropServices.Marshal]::SecureStringToGlobalAllocUnicode($Secure)
    try {
        [System.Runtime.InteropServices.Marshal]::Copy($pointer, $characters, 0, $characters.Length)
    } finally {
        [System.Runtime.InteropServices.Marshal]::ZeroFreeGlobalAllocUnicode($pointer)
    }
    , $characters
}

function Assert-Text([char[]] $Characters, [string] $What, [int] $Limit) {
    $refusal = New-Refusal $What "1 to $Limit characters without control characters"
    $count = 0
    for ($at = 0; $at -lt $Characters.Length; $at++) {
        $character = $Characters[$at]
        if ([int] $character -lt 32 -or [char]::IsLowSurrogate($character)) { throw $refusal }
        if ([char]::IsHighSurrogate($character)) {
            $at++
            if ($at -eq $Characters.Length -or -not [char]::IsLowSurrogate($Characters[$at])) { throw $refusal }
        }
        $count++
    }
    if ($count -eq 0 -or $count -gt $Limit) { throw $refusal }
}

# The vault's key

function Read-PublicKeyText([string] $Source, [bool] $Compared) {
    if ($Source -cnotmatch '^[A-Za-z][A-Za-z0-9+.-]+://') {
        $file = Get-Item -LiteralPath $Source
        if ($file.Length -gt $MaxJwksBytes) { throw (New-Refusal 'vault public key' "at most $MaxJwksBytes bytes") }
        return [System.IO.File]::ReadAllText($file.FullName, [System.Text.Encoding]::UTF8)
    }
    if ($Source -notmatch '^https://') { throw (New-Refusal 'address' 'https') }
    if (-not $Compared) { throw (New-Refusal 'address' '-Fingerprint with the words of its key') }
    if ($Desktop) {
        $tls = [System.Net.ServicePointManager]::SecurityProtocol -bor [System.Net.SecurityProtocolType]::Tls12
        [System.Net.ServicePointManager]::SecurityProtocol = $tls
    }
    $answer = Invoke-WebRequest -Uri $Source -UseBasicParsing -MaximumRedirection 0 -TimeoutSec 30
    [byte[]] $content = $answer.RawContentStream.ToArray()
    if ($content.Length -gt $MaxJwksBytes) { throw (New-Refusal 'vault public key' "at most $MaxJwksBytes bytes") }
    [System.Text.Encoding]::UTF8.GetString($content)
}

function Read-Member([object] $Jwk, [string] $Name, [string] $Otherwise) {
    $member = $Jwk.PSObject.Properties[$Name]
    if ($null -eq $member) { $Otherwise } else { $member.Value }
}

function Read-VaultKey([string] $Text) {
    $bounds = "$MinKeyBits to $MaxKeyBits bits"
    $refusal = New-Refusal 'vault public key' "a JWK or JWKS with a public RSA key of $bounds"
    $document = ConvertFrom-Json -InputObject $Text
    if ($document -isnot [System.Management.Automation.PSCustomObject]) { throw $refusal }
    [object[]] $keys = @($document)
    if ($document.PSObject.Properties['keys']) { $keys = @($document.keys) }
    if ($keys.Length -eq 0) { throw $refusal }
    foreach ($jwk in $keys) {
        if ($jwk -isnot [System.Management.Automation.PSCustomObject]) { throw $refusal }
        foreach ($name in $PrivateMembers) {
            if ($jwk.PSObject.Properties[$name]) {
                throw (New-Refusal 'vault public key' 'its public half only; treat that private key as disclosed')
            }
        }
    }
    $jwk = $keys[0]
    $modulus = Read-Member $jwk 'n' ''
    $known = (Read-Member $jwk 'kty' '') -ceq 'RSA' -and (Read-Member $jwk 'e' '') -ceq 'AQAB'
    $meant = (Read-Member $jwk 'use' 'enc') -ceq 'enc' -and (Read-Member $jwk 'alg' $Alg) -ceq $Alg
    if (-not ($known -and $meant -and $modulus -is [string])) { throw $refusal }
    [byte[]] $number = ConvertFrom-Base64Url $modulus
    $bits = 8 * ($number.Length - 1)
    if ($number.Length -eq 0 -or $number[0] -eq 0) { throw $refusal }
    for ($first = [int] $number[0]; $first -gt 0; $first = $first -shr 1) { $bits++ }
    if ($bits -lt $MinKeyBits -or $bits -gt $MaxKeyBits) { throw $refusal }
    [byte[]] $digest = Get-TextDigest ('{"e":"AQAB","kty":"RSA","n":"' + $modulus + '"}')
    $thumbprint = ConvertTo-Base64Url $digest
    if ((Read-Member $jwk 'kid' $thumbprint) -cne $thumbprint) {
        throw (New-Refusal 'vault public key' 'a key whose kid is its RFC 7638 thumbprint')
    }
    $parameters = New-Object System.Security.Cryptography.RSAParameters
    $parameters.Modulus = $number
    $parameters.Exponent = [byte[]] (1, 0, 1)
    @{ Thumbprint = $thumbprint; Fingerprint = (ConvertTo-Proquints $digest); Parameters = $parameters }
}

function ConvertTo-Proquints([byte[]] $Digest) {
    $consonants = 'bdfghjklmnprstvz'
    $vowels = 'aiou'
    $words = for ($at = 0; $at -lt 16; $at += 2) {
        $number = 256 * [int] $Digest[$at] + [int] $Digest[$at + 1]
        -join @(
            $consonants[$number -shr 12]
            $vowels[($number -shr 10) -band 3]
            $consonants[($number -shr 6) -band 15]
            $vowels[($number -shr 4) -band 3]
            $consonants[$number -band 15]
        )
    }
    $words -join '-'
}

# JWE

function New-Rsa([int] $Bits) {
    if (-not $Desktop) {
        $rsa = [System.Security.Cryptography.RSA]::Create()
        if ($Bits) { $rsa.KeySize = $Bits }
        return $rsa
    }
    if (-not ('System.Security.Cryptography.RSACng' -as [type])) {
        throw 'This needs .NET Framework 4.6 or later: earlier ones have no RSA-OAEP with SHA-256.'
    }
    if ($Bits) { return [System.Security.Cryptography.RSACng]::new($Bits) }
    [System.Security.Cryptography.RSACng]::new()
}

function Test-AesGcm {
    if ($null -eq $AesGcm) { return $false }
    $supported = $AesGcm.GetProperty('IsSupported')
    $null -eq $supported -or [bool] $supported.GetValue($null)
}

function New-AesGcm([byte[]] $Key) {
    $sized = $AesGcm.GetConstructor([type[]] @([byte[]], [int]))
    if ($null -ne $sized) { $AesGcm::new($Key, 16) } else { $AesGcm::new($Key) }
}

function Protect-WithGcm([byte[]] $Key, [byte[]] $Iv, [byte[]] $Header, [byte[]] $Plaintext) {
    $ciphertext = [byte[]]::new($Plaintext.Length)
    $tag = [byte[]]::new(16)
    $cipher = New-AesGcm $Key
    try { $cipher.Encrypt($Iv, $Plaintext, $ciphertext, $tag, $Header) } finally { $cipher.Dispose() }
    @{ Ciphertext = $ciphertext; Tag = $tag }
}

function New-CbcCipher([byte[]] $Key, [byte[]] $Iv) {
    $half = [byte[]]::new(32)
    [Array]::Copy($Key, 32, $half, 0, 32)
    $cipher = [System.Security.Cryptography.Aes]::Create()
    $cipher.KeySize = 256
    $cipher.Mode = [System.Security.Cryptography.CipherMode]::CBC
    $cipher.Padding = [System.Security.Cryptography.PaddingMode]::PKCS7
    $cipher.Key = $half
    $cipher.IV = $Iv
    Clear-Buffer $half
    $cipher
}

# RFC 7518, 5.2.2.1: the tag is half of a hash over header, iv, ciphertext and the header's length in bits.
function Get-CbcTag([byte[]] $Key, [byte[]] $Iv, [byte[]] $Header, [byte[]] $Ciphertext) {
    $bits = [BitConverter]::GetBytes([long] (8 * $Header.Length))
    if ([BitConverter]::IsLittleEndian) { [Array]::Reverse($bits) }
    $half = [byte[]]::new(32)
    [Array]::Copy($Key, 0, $half, 0, 32)
    $hmac = [System.Security.Cryptography.HMACSHA512]::new($half)
    $tag = [byte[]]::new(32)
    try {
        $digest = $hmac.ComputeHash((Join-Bytes @($Header, $Iv, $Ciphertext, $bits)))
        [Array]::Copy($digest, 0, $tag, 0, 32)
    } finally {
        $hmac.Dispose()
        Clear-Buffer $half
    }
    , $tag
}

function Protect-WithCbc([byte[]] $Key, [byte[]] $Iv, [byte[]] $Header, [byte[]] $Plaintext) {
    $cipher = New-CbcCipher $Key $Iv
    try {
        $encryptor = $cipher.CreateEncryptor()
        [byte[]] $ciphertext = $encryptor.TransformFinalBlock($Plaintext, 0, $Plaintext.Length)
        $encryptor.Dispose()
    } finally {
        $cipher.Dispose()
    }
    @{ Ciphertext = $ciphertext; Tag = (Get-CbcTag $Key $Iv $Header $ciphertext) }
}

function Protect-Payload([byte[]] $Payload, [hashtable] $Key, [string] $Tid, [string] $Place, [bool] $WithGcm) {
    if ($Payload.Length -gt $MaxPayload) { throw (New-Refusal 'payload to seal' "at most $MaxPayload bytes") }
    $enc = if ($WithGcm) { $Gcm } else { $Cbc }
    $header = ConvertTo-Base64Url ([System.Text.Encoding]::ASCII.GetBytes(
        ($HeaderForm -f $Alg, $enc, $Key.Thumbprint, $Typ, $Tid, $Place)))
    $authenticated = [System.Text.Encoding]::ASCII.GetBytes($header)
    $contentKey = New-RandomBytes $(if ($WithGcm) { 32 } else { 64 })
    $rsa = New-Rsa 0
    try {
        $rsa.ImportParameters($Key.Parameters)
        [byte[]] $wrapped = $rsa.Encrypt($contentKey, [System.Security.Cryptography.RSAEncryptionPadding]::OaepSHA256)
        $iv = New-RandomBytes $(if ($WithGcm) { 12 } else { 16 })
        $sealed = if ($WithGcm) {
            Protect-WithGcm $contentKey $iv $authenticated $Payload
        } else {
            Protect-WithCbc $contentKey $iv $authenticated $Payload
        }
    } finally {
        $rsa.Dispose()
        Clear-Buffer $contentKey
    }
    $segments = foreach ($part in @($wrapped, $iv, $sealed.Ciphertext, $sealed.Tag)) { ConvertTo-Base64Url $part }
    (@($header) + $segments) -join '.'
}

# The payload: JSON in bytes that can be overwritten. Fields are name to characters, in the order they are written in.

function ConvertTo-Payload([string] $Name, [System.Collections.Specialized.OrderedDictionary] $Fields) {
    $strict = [System.Text.UTF8Encoding]::new($false, $true)
    $stream = [System.IO.MemoryStream]::new(8 * $MaxPayload)
    try {
        $begin = $strict.GetBytes('{"kind":"' + $Name + '"')
        $stream.Write($begin, 0, $begin.Length)
        foreach ($field in $Fields.Keys) {
            $label = $strict.GetBytes(',"' + $field + '":"')
            $stream.Write($label, 0, $label.Length)
            $escaped = ConvertTo-EscapedText $Fields[$field]
            [byte[]] $encoded = $strict.GetBytes($escaped)
            $stream.Write($encoded, 0, $encoded.Length)
            $stream.WriteByte(34)
            Clear-Buffer $escaped
            Clear-Buffer $encoded
        }
        $stream.WriteByte(125)
        , $stream.ToArray()
    } finally {
        Clear-Buffer $stream.GetBuffer()
        $stream.Dispose()
    }
}

function ConvertTo-EscapedText([char[]] $Characters) {
    $longer = [char[]]::new(2 * $Characters.Length)
    $length = 0
    foreach ($character in $Characters) {
        $code = [int] $character
        if ($code -eq 34 -or $code -eq 92 -or $code -eq 10) {
            $longer[$length++] = [char] 92
            if ($code -eq 10) { $character = [char] 110 }
        }
        $longer[$length++] = $character
    }
    $exact = [char[]]::new($length)
    [Array]::Copy($longer, 0, $exact, 0, $length)
    Clear-Buffer $longer
    , $exact
}

# Certificates: RFC 8017, A.1.2, in the PEM of RFC 7468

function ConvertTo-Der([byte] $Tag, [byte[]] $Content) {
    $length = $Content.Length
    $head = if ($length -lt 128) { $Tag, $length }
    elseif ($length -lt 256) { $Tag, 0x81, $length }
    else { $Tag, 0x82, ($length -shr 8), ($length -band 255) }
    , (Join-Bytes @([byte[]] $head, $Content))
}

function ConvertTo-DerInteger([byte[]] $Number) {
    $zeros = 0
    while ($zeros -lt $Number.Length - 1 -and $Number[$zeros] -eq 0) { $zeros++ }
    $sign = [int] ($Number[$zeros] -ge 128)
    $content = [byte[]]::new($sign + $Number.Length - $zeros)
    [Array]::Copy($Number, $zeros, $content, $sign, $Number.Length - $zeros)
    $element = ConvertTo-Der 2 $content
    Clear-Buffer $content
    , $element
}

function ConvertTo-Pem([string] $Label, [byte[]] $Der) {
    $base64 = [char[]]::new(4 * [int] [Math]::Ceiling($Der.Length / 3))
    $null = [Convert]::ToBase64CharArray($Der, 0, $Der.Length, $base64, 0)
    $begin = "-----BEGIN $Label-----`n".ToCharArray()
    $end = "-----END $Label-----`n".ToCharArray()
    $lines = [int] [Math]::Ceiling($base64.Length / 64)
    $pem = [char[]]::new($begin.Length + $base64.Length + $lines + $end.Length)
    [Array]::Copy($begin, 0, $pem, 0, $begin.Length)
    $to = $begin.Length
    for ($from = 0; $from -lt $base64.Length; $from += 64) {
        $taken = [Math]::Min(64, $base64.Length - $from)
        [Array]::Copy($base64, $from, $pem, $to, $taken)
        $to += $taken
        $pem[$to++] = [char] 10
    }
    [Array]::Copy($end, 0, $pem, $to, $end.Length)
    Clear-Buffer $base64
    if ($pem.Length -gt $MaxPem) { throw (New-Refusal 'certificate' "PEM of at most $MaxPem characters") }
    , $pem
}

function ConvertTo-PrivatePem([System.Security.Cryptography.RSAParameters] $Numbers) {
    $integers = [System.Collections.Generic.List[byte[]]]::new()
    $integers.Add((ConvertTo-DerInteger ([byte[]]::new(1))))
    foreach ($name in 'Modulus', 'Exponent', 'D', 'P', 'Q', 'DP', 'DQ', 'InverseQ') {
        $integers.Add((ConvertTo-DerInteger $Numbers.$name))
    }
    $content = Join-Bytes $integers.ToArray()
    $der = ConvertTo-Der 0x30 $content
    $pem = ConvertTo-Pem 'RSA PRIVATE KEY' $der
    foreach ($buffer in $integers) { Clear-Buffer $buffer }
    Clear-Buffer $content
    Clear-Buffer $der
    , $pem
}

# Windows exports a key that came from a PFX file in encrypted form only. .NET reads that back into a copy without this
# bound (dotnet/runtime issue 109059); .NET Framework has no such export, but lets the bound be lifted (issue 36899).
function Export-Numbers([System.Security.Cryptography.RSA] $Key) {
    if (-not $Desktop) {
        $password = ConvertTo-Base64Url (New-RandomBytes 32)
        $protection = [System.Security.Cryptography.PbeParameters]::new(
            [System.Security.Cryptography.PbeEncryptionAlgorithm]::Aes256Cbc,
            [System.Security.Cryptography.HashAlgorithmName]::SHA256, 1000)
        $copy = New-Rsa 0
        try {
            [byte[]] $encrypted = $Key.ExportEncryptedPkcs8PrivateKey($password, $protection)
            $read = 0
            $copy.ImportEncryptedPkcs8PrivateKey($password, $encrypted, [ref] $read)
            return $copy.ExportParameters($true)
        } finally {
            $copy.Dispose()
        }
    }
    if ($Key -is [System.Security.Cryptography.RSACng]) {
        $plaintext = [int] [System.Security.Cryptography.CngExportPolicies]::AllowPlaintextExport
        $policy = [int] $Key.Key.ExportPolicy
        if (($policy -band $plaintext) -eq 0) {
            $lifted = [BitConverter]::GetBytes([int] ($policy -bor $plaintext))
            $none = [System.Security.Cryptography.CngPropertyOptions]::None
            $Key.Key.SetProperty([System.Security.Cryptography.CngProperty]::new('Export Policy', $lifted, $none))
        }
    }
    $Key.ExportParameters($true)
}

function Read-Pfx([string] $Path, [System.Security.SecureString] $Password) {
    $flags = [System.Security.Cryptography.X509Certificates.X509KeyStorageFlags]::Exportable
    if (-not $Desktop -and -not $IsMacOS) {
        $flags = $flags -bor [System.Security.Cryptography.X509Certificates.X509KeyStorageFlags]::EphemeralKeySet
    }
    $file = (Get-Item -LiteralPath $Path).FullName
    $pfx = [System.Security.Cryptography.X509Certificates.X509Certificate2]::new($file, $Password, $flags)
    try {
        $public = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPublicKey($pfx)
        $private = [System.Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($pfx)
        if ($null -eq $public -or $null -eq $private) {
            throw (New-Refusal 'certificate' 'a PFX file with an RSA certificate and its private key')
        }
        $numbers = Export-Numbers $private
        $certified = $public.ExportParameters($false)
        if ((ConvertTo-Base64Url $certified.Modulus) -cne (ConvertTo-Base64Url $numbers.Modulus)) {
            throw (New-Refusal 'private key' 'the private key of the certificate next to it')
        }
        @{
            CertificatePem = (ConvertTo-Pem 'CERTIFICATE' $pfx.RawData)
            PrivatePem = (ConvertTo-PrivatePem $numbers)
            Expires = $pfx.NotAfter
        }
        foreach ($name in 'D', 'P', 'Q', 'DP', 'DQ', 'InverseQ') { Clear-Buffer $numbers.$name }
    } finally {
        $pfx.Dispose()
    }
}

# What is asked for: identity, expiry, and the fields of the payload

function Read-Moment([string] $Text) {
    if (-not $Text) { return $null }
    $culture = [cultureinfo]::InvariantCulture
    $assumed = [System.Globalization.DateTimeStyles]::AssumeUniversal
    $adjusted = [System.Globalization.DateTimeStyles]::AdjustToUniversal
    $read = [datetime]::MinValue
    if (-not [datetime]::TryParseExact($Text, $MomentForms, $culture, ($assumed -bor $adjusted), [ref] $read)) {
        throw (New-Refusal 'expiry' 'an ISO 8601 date or time, such as 2027-03-01 or 2027-03-01T00:00:00Z')
    }
    $read
}

function ConvertTo-MomentText([datetime] $Moment) {
    $Moment.ToUniversalTime().ToString("yyyy'-'MM'-'dd'T'HH':'mm':'ss'Z'", [cultureinfo]::InvariantCulture)
}

function Read-Secret([string] $Prompt) {
    if ($null -ne $Secret) { return $Secret }
    Read-Host -Prompt $Prompt -AsSecureString
}

function Read-AppCertificate {
    if (-not $Certificate) { throw (New-Refusal 'certificate' '-Certificate with a PFX file') }
    if ($Expires) { throw (New-Refusal 'expiry' 'none beside a certificate, which says it itself') }
    $pfx = Read-Pfx $Certificate (Read-Secret "Password of $Certificate")
    $fields = [ordered]@{ client_id = $ClientId.ToCharArray() }
    $fields['certificate_pem'] = $pfx.CertificatePem
    $fields['private_key_pem'] = $pfx.PrivatePem
    @{ Identity = $ClientId; Expires = $pfx.Expires; Fields = $fields }
}

function Read-AppSecret {
    $end = Read-Moment $Expires
    $characters = Copy-SecureText (Read-Secret "Client secret of $ClientId")
    Assert-Text $characters 'client secret' $MaxSecret
    $fields = [ordered]@{ client_id = $ClientId.ToCharArray() }
    $fields['secret'] = $characters
    @{ Identity = $ClientId; Expires = $end; Fields = $fields }
}

function Read-ServiceAccount {
    $end = Read-Moment $Expires
    $account = $Credential
    if ($null -eq $account -and -not $UserName) { $account = Get-Credential -Message "Account of tenant $Tenant" }
    if ($null -eq $account -and -not $UserName) { throw (New-Refusal 'user name' '-UserName, or an answer') }
    $name = if ($null -ne $account) { $account.UserName } else { $UserName }
    $password = if ($null -ne $account) { $account.Password } else { Read-Secret "Password of $name" }
    Assert-Text $name.ToCharArray() 'user name' $MaxText
    $characters = Copy-SecureText $password
    Assert-Text $characters 'password' $MaxSecret
    $fields = [ordered]@{ username = $name.ToCharArray() }
    $fields['password'] = $characters
    $fields['client_id'] = $(if ($ClientId) { $ClientId } else { $AzurePowerShell }).ToCharArray()
    @{ Identity = $name; Expires = $end; Fields = $fields }
}

function Read-Given([string] $Name) {
    $needed = $Name -cne 'service-account'
    if (($needed -or $ClientId) -and $ClientId -notmatch $GuidForm) {
        throw (New-Refusal 'client id' '-ClientId with the application (client) id, a GUID')
    }
    switch ($Name) {
        'app-certificate' { Read-AppCertificate }
        'app-secret' { Read-AppSecret }
        'service-account' { Read-ServiceAccount }
    }
}

function Protect-Given {
    $key = Read-VaultKey (Read-PublicKeyText $PublicKey ([bool] $Fingerprint))
    if (-not $Fingerprint) {
        Write-Warning "Compare the key's words with those of 'tenantry vault public-key': $($key.Fingerprint)"
    } elseif ($Fingerprint.Trim().ToLowerInvariant() -cne $key.Fingerprint) {
        throw (New-Refusal 'vault public key' 'the key of that fingerprint; this is another one')
    }
    if ($Tenant -notmatch $GuidForm) { throw (New-Refusal 'tenant id' 'a directory GUID with its hyphens') }
    $name = $Kind.ToLowerInvariant()
    $tid = $Tenant.ToLowerInvariant()
    $place = $Slot.ToLowerInvariant()
    $given = Read-Given $name
    $payload = ConvertTo-Payload $name $given.Fields
    try {
        $envelope = Protect-Payload $payload $key $tid $place (Test-AesGcm)
    } finally {
        Clear-Buffer $payload
        foreach ($field in @($given.Fields.Keys)) { Clear-Buffer $given.Fields[$field] }
    }
    $expiry = 'null'
    if ($null -ne $given.Expires) {
        $expiry = '"' + (ConvertTo-MomentText $given.Expires) + '"'
    }
    '{"tenant":' + (ConvertTo-JsonText $tid) + ',"slot":' + (ConvertTo-JsonText $place) + ',"kind":' +
        (ConvertTo-JsonText $name) + ',"identity":' + (ConvertTo-JsonText $given.Identity) + ',"expires":' + $expiry +
        ',"envelope":' + (ConvertTo-JsonText $envelope) + ',"digest":' +
        (ConvertTo-JsonText (ConvertTo-Hex (Get-TextDigest $envelope))) + '}'
}

# Self test: published vectors, and envelopes sealed and opened with a key made for it

$CbcVector = @{
    Source = 'RFC 7518, appendix B.3'
    Key = (
        '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f' +
        '303132333435363738393a3b3c3d3e3f'
    )
    Iv = '1af38c2dc2b96ffdd86694092341bc04'
    Header = '546865207365636f6e64207072696e6369706c65206f662041756775737465204b6572636b686f666673'
    Plaintext = (
        '41206369706865722073797374656d206d757374206e6f7420626520726571756972656420746f206265207365637265' +
        '742c20616e64206974206d7573742062652061626c6520746f2066616c6c20696e746f207468652068616e6473206f66' +
        '2074686520656e656d7920776974686f757420696e636f6e76656e69656e6365'
    )
    Ciphertext = (
        '4affaaadb78c31c5da4b1b590d10ffbd3dd8d5d302423526912da037ecbcc7bd822c301dd67c373bccb584ad3e9279c2' +
        'e6d12a1374b77f077553df829410446b36ebd97066296ae6427ea75c2e0846a11a09ccf5370dc80bfecbad28c73f09b3' +
        'a3b75e662a2594410ae496b2e2e6609e31e6e02cc837f053d21f37ff4f51950bbe2638d09dd7a4930930806d0703b1f6'
    )
    Tag = '4dd3b4c088a7f45c216839645b2012bf2e6269a8c56a816dbc1b267761955bc5'
}
$KeyVector = @{
    Source = 'RFC 7638, section 3.1'
    Modulus = (
        '0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK' +
        'RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic' +
        'AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3' +
        'XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw'
    )
    Thumbprint = 'NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs'
    Fingerprint = 'gisuk-sovud-lodus-robub-nudul-vupas-gisaj-silod'
}
$DigestVector = @{
    Source = 'FIPS 180-2, appendix B.1'
    Text = 'abc'
    Digest = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
}
$PayloadVector = @{
    UserName = 'reader@contoso.com'
    Password = '70726f746563747320226e6f7468696e6722205c20c3a4c39f2065cc8120e697a5e69cace8aa9e20f09f9880'
    Payload = (
        '7b226b696e64223a22736572766963652d6163636f756e74222c22757365726e616d65223a2272656164657240636f6e' +
        '746f736f2e636f6d222c2270617373776f7264223a2270726f7465637473205c226e6f7468696e675c22205c5c20c3a4' +
        'c39f2065cc8120e697a5e69cace8aa9e20f09f9880222c22636c69656e745f6964223a2231393530613235382d323237' +
        '622d346533312d613963662d373137343935393435666332227d'
    )
}

$MomentVector = @{
    Day = '2027-03-01'
    Zoneless = '2027-03-01T12:30:45'
    ZonelessUtc = '2027-03-01T12:30:45Z'
    Zoned = '2027-03-01T01:30:00+01:30'
    ZonedUtc = '2027-03-01T00:00:00Z'
}

function Test-Equal([byte[]] $One, [byte[]] $Other) {
    [BitConverter]::ToString($One) -ceq [BitConverter]::ToString($Other)
}

function Test-CbcVector {
    $iv = ConvertFrom-Hex $CbcVector.Iv
    $header = ConvertFrom-Hex $CbcVector.Header
    $made = Protect-WithCbc (ConvertFrom-Hex $CbcVector.Key) $iv $header (ConvertFrom-Hex $CbcVector.Plaintext)
    $ciphertext = Test-Equal $made.Ciphertext (ConvertFrom-Hex $CbcVector.Ciphertext)
    $ciphertext -and (Test-Equal $made.Tag (ConvertFrom-Hex $CbcVector.Tag))
}

function Test-KeyVector {
    $key = Read-VaultKey ('{"kty":"RSA","e":"AQAB","n":"' + $KeyVector.Modulus + '"}')
    $key.Thumbprint -ceq $KeyVector.Thumbprint -and $key.Fingerprint -ceq $KeyVector.Fingerprint
}

function Test-DigestVector {
    (ConvertTo-Hex (Get-TextDigest $DigestVector.Text)) -ceq $DigestVector.Digest
}

function Test-MomentVector {
    $day = ConvertTo-MomentText (Read-Moment $MomentVector.Day)
    $zoneless = ConvertTo-MomentText (Read-Moment $MomentVector.Zoneless)
    $zoned = ConvertTo-MomentText (Read-Moment $MomentVector.Zoned)
    $midnight = $MomentVector.ZonedUtc
    $day -ceq $midnight -and $zoneless -ceq $MomentVector.ZonelessUtc -and $zoned -ceq $midnight
}

function Test-PayloadVector {
    $password = [System.Text.Encoding]::UTF8.GetString((ConvertFrom-Hex $PayloadVector.Password))
    $fields = [ordered]@{ username = $PayloadVector.UserName.ToCharArray() }
    $fields['password'] = $password.ToCharArray()
    $fields['client_id'] = $AzurePowerShell.ToCharArray()
    Test-Equal (ConvertTo-Payload 'service-account' $fields) (ConvertFrom-Hex $PayloadVector.Payload)
}

function Test-Envelope([bool] $WithGcm) {
    $payload = New-RandomBytes 100
    $rsa = New-Rsa $MinKeyBits
    try {
        $public = $rsa.ExportParameters($false)
        $modulus = ConvertTo-Base64Url $public.Modulus
        $key = Read-VaultKey ('{"kty":"RSA","e":"AQAB","n":"' + $modulus + '"}')
        $envelope = Protect-Payload $payload $key $AzurePowerShell 'entra' $WithGcm
        $header, $wrapped, $iv, $ciphertext, $tag = $envelope.Split('.')
        $header = [System.Text.Encoding]::ASCII.GetBytes($header)
        $iv = ConvertFrom-Base64Url $iv
        $ciphertext = ConvertFrom-Base64Url $ciphertext
        $tag = ConvertFrom-Base64Url $tag
        $padding = [System.Security.Cryptography.RSAEncryptionPadding]::OaepSHA256
        [byte[]] $contentKey = $rsa.Decrypt((ConvertFrom-Base64Url $wrapped), $padding)
    } finally {
        $rsa.Dispose()
    }
    if ($WithGcm) {
        $opened = [byte[]]::new($ciphertext.Length)
        $cipher = New-AesGcm $contentKey
        try { $cipher.Decrypt($iv, $ciphertext, $tag, $opened, $header) } finally { $cipher.Dispose() }
        return Test-Equal $opened $payload
    }
    if (-not (Test-Equal (Get-CbcTag $contentKey $iv $header $ciphertext) $tag)) { return $false }
    $cipher = New-CbcCipher $contentKey $iv
    try {
        [byte[]] $opened = $cipher.CreateDecryptor().TransformFinalBlock($ciphertext, 0, $ciphertext.Length)
    } finally {
        $cipher.Dispose()
    }
    Test-Equal $opened $payload
}

function Test-Pfx {
    $rsa = New-Rsa $MinKeyBits
    $path = [System.IO.Path]::GetTempFileName()
    $password = [System.Security.SecureString]::new()
    $random = ConvertTo-Base64Url (New-RandomBytes 32)
    foreach ($character in $random.ToCharArray()) { $password.AppendChar($character) }
    try {
        $request = [System.Security.Cryptography.X509Certificates.CertificateRequest]::new('CN=Self test', $rsa,
            [System.Security.Cryptography.HashAlgorithmName]::SHA256,
            [System.Security.Cryptography.RSASignaturePadding]::Pkcs1)
        $made = $request.CreateSelfSigned([DateTimeOffset]::UtcNow.AddDays(-1), [DateTimeOffset]::UtcNow.AddDays(1))
        $type = [System.Security.Cryptography.X509Certificates.X509ContentType]::Pfx
        [System.IO.File]::WriteAllBytes($path, $made.Export($type, $password))
        $read = Read-Pfx $path $password
        $expected = -join (ConvertTo-PrivatePem $rsa.ExportParameters($true))
        (-join $read.PrivatePem) -ceq $expected -and $read.Expires -eq $made.NotAfter
    } finally {
        [System.IO.File]::Delete($path)
        $rsa.Dispose()
    }
}

function Test-Client {
    $gcmThere = Test-AesGcm
    $requestThere = $null -ne ('System.Security.Cryptography.X509Certificates.CertificateRequest' -as [type])
    $checks = @(
        @{ Check = "$Cbc as in $($CbcVector.Source)"; Possible = $true; Run = { Test-CbcVector } }
        @{ Check = "Thumbprint as in $($KeyVector.Source), and its words"; Possible = $true; Run = { Test-KeyVector } }
        @{ Check = "Digest as in $($DigestVector.Source)"; Possible = $true; Run = { Test-DigestVector } }
        @{ Check = 'Dates and times without a zone are UTC'; Possible = $true; Run = { Test-MomentVector } }
        @{ Check = 'Payload with characters that JSON escapes'; Possible = $true; Run = { Test-PayloadVector } }
        @{ Check = "Sealed with $Cbc and opened"; Possible = $true; Run = { Test-Envelope $false } }
        @{ Check = "Sealed with $Gcm and opened"; Possible = $gcmThere; Run = { Test-Envelope $true } }
        @{ Check = 'Certificate and key out of a PFX file'; Possible = $requestThere; Run = { Test-Pfx } }
    )
    $results = foreach ($check in $checks) {
        $result = 'not on this platform'
        if ($check.Possible) {
            try {
                $result = if (& $check.Run) { 'passed' } else { 'failed' }
            } catch {
                $result = "failed: $($_.Exception.Message)"
            }
        }
        [PSCustomObject] @{ Check = $check.Check; Result = $result }
    }
    $results
    if (@($results | Where-Object { $_.Result -like 'failed*' }).Count -gt 0) { throw 'The self test failed.' }
}

if ($SelfTest) {
    Test-Client
    return
}
$sealed = Protect-Given
if (-not $OutFile) { return $sealed }
$path = $PSCmdlet.GetUnresolvedProviderPathFromPSPath($OutFile)
[System.IO.File]::WriteAllText($path, $sealed + "`n", [System.Text.UTF8Encoding]::new($false))
Write-Information "Sealed: $path. Store it with 'tenantry credential put'." -InformationAction Continue
