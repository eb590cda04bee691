"""The words of the page of sessions, in both languages."""

from typing import Final

from tokenworks.console.words import Language

SESSION_WORDS: Final[dict[Language, dict[str, str]]] = {
    "zh": {
        "lead": "以下设备已登录。看到不认识的设备，请立即退出它；您的密钥不受影响。",
        "this": "当前设备", "since": "登录时间：{at}", "seen": "最近使用：{at}", "where": "登录地址：{place}",
        "until": "{at} 自动退出", "of": "{name} 的登录", "end": "退出此设备", "end_others": "退出其他所有设备",
        "ended": "已退出。", "ended_others": "其他设备已全部退出。", "more": "另有 {count} 个登录未显示。",
        "iphone": "iPhone", "ipad": "iPad", "android": "Android 设备", "windows": "Windows 电脑", "mac": "Mac 电脑",
        "linux": "Linux 电脑", "other": "应用程序或其他设备", "unknown_place": "未知",
    },
    "en": {
        "lead": "These devices are signed in. If you do not know one, sign it out at once. Your keys are not affected.",
        "this": "This device", "since": "Signed in: {at}", "seen": "Last used: {at}", "where": "From: {place}",
        "until": "Signs out by itself on {at}", "of": "{name}\u2019s device", "end": "Sign this device out",
        "end_others": "Sign all other devices out", "ended": "Signed out.", "ended_others": "All other devices are signed out.",
        "more": "{count} more are not shown.",
        "iphone": "iPhone", "ipad": "iPad", "android": "Android device", "windows": "Windows computer", "mac": "Mac",
        "linux": "Linux computer", "other": "A program or another device", "unknown_place": "not known",
    },
}  # fmt: skip
