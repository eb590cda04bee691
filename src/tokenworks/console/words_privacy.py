"""The words of the privacy page, in both languages."""

from typing import Final

from tokenworks.console.words import Language

PRIVACY_WORDS: Final[dict[Language, dict[str, str]]] = {
    "zh": {
        "privacy": "隐私与个人信息", "consents": "我的同意", "agree": "同意", "withdraw": "撤回同意",
        "given": "已同意", "withdrawn": "已撤回", "not_said": "尚未表示", "changed": "文本已更新，请重新确认",
        "since": "时间", "terms": "服务条款", "marketing": "营销信息", "spill_over": "套餐用完后继续计费",
        "data_cross_border": "个人信息出境", "takes_effect": "撤回后，从下一次请求起生效。", "who": "我的信息", "phone": "手机号码", "name": "姓名",
        "real_name": "实名认证", "unknown": "未认证", "pending": "核验中", "verified": "已认证", "refused": "未通过",
        "export": "导出我的信息", "export_hint": "一个 JSON 文件，包含我们保存的与您有关的全部信息。", "erase": "注销并删除",
        "erase_hint": "账户将立即注销，并销毁您的个人密钥：姓名、号码等个人信息将无法恢复。账单和记账凭证依法保留，但不再包含您的身份信息。"
        "尚有费用未结清或服务待拆除的，完成后删除。",
        "confirm": "手机号码后四位", "erased": "您的个人信息已删除。", "waiting": "账户已注销。以下事项完成后即删除个人信息：",
        "waits_owed": "结清尚未缴纳（或应退还）的费用", "waits_work_orders": "拆除已开通的宽带类服务",
        "backups": "备份中的信息最迟清除于",
        "member_hint": "您是这个账户的成员。账户的同意、账单和注销由户主办理；以下是您自己的信息。",
        "member_export_hint": "一个 JSON 文件，包含您的姓名、号码、密钥、登录记录和您自己的用量。",
        "member_erase": "退出账户并删除我的信息",
        "member_erase_hint": "您将退出这个账户，密钥立即停用，姓名、号码等个人信息将无法恢复。您的用量保留在账单中，但不再包含您的身份信息。",
        "member_erased": "您已退出账户，个人信息已删除。",
    },
    "en": {
        "privacy": "Privacy", "consents": "What you agreed to", "agree": "Agree", "withdraw": "Withdraw",
        "given": "Agreed", "withdrawn": "Withdrawn", "not_said": "Not said", "changed": "The text has changed: please read it again",
        "since": "on", "terms": "Terms of service", "marketing": "News and offers", "spill_over": "Go on when a plan is used up",
        "data_cross_border": "Processing outside the country", "takes_effect": "What you withdraw holds from the next request on.",
        "who": "About you", "phone": "Phone number", "name": "Name", "real_name": "Real name", "unknown": "not checked",
        "pending": "being checked", "verified": "verified", "refused": "refused", "export": "Export my data",
        "export_hint": "One JSON file with everything that is stored about you.", "erase": "Close and erase",
        "erase_hint": "The account is closed at once and your personal key is destroyed: your name and number can't be read by anybody "
        "any more. Bills and ledger postings stay, as the law asks, without your identity. While something is owed, or is to be taken "
        "away from your line, this happens as soon as that is done.",
        "confirm": "Last four digits of the phone number", "erased": "Your personal data is erased.",
        "waiting": "The account is closed. Your personal data is erased as soon as this is done:",
        "waits_owed": "what is still owed, by you or to you, is settled",
        "waits_work_orders": "what was delivered on your line is taken away",
        "backups": "Backups forget by",
        "member_hint": "You are a member of this account. Its consents, bills and closing are up to the owner; this is what is yours.",
        "member_export_hint": "One JSON file with your name, number, keys, sessions and your own usage.",
        "member_erase": "Leave and erase my data",
        "member_erase_hint": "You leave this account and your keys stop at once; your name and number can't be read by anybody any "
        "more. What you used stays in its bills, without your identity.",
        "member_erased": "You have left the account. Your personal data is erased.",
    },
}  # fmt: skip
