"""What the pages say, in Chinese and English."""

from typing import Final, Literal

Language = Literal["zh", "en"]

WORDS: Final[dict[Language, dict[str, str]]] = {
    "zh": {
        "order": "订购", "usage": "用量", "bill": "账单", "other_language": "English", "sign_out": "退出登录",
        "privacy": "隐私与个人信息", "terms": "服务条款", "agrees": "继续即表示您同意",
        "skip": "跳到正文", "menu": "导航",
        "sign_in": "登录或注册", "identifier": "手机号或宽带账号", "identifier_hint": "例如 138 0000 0001",
        "send_code": "获取验证码", "code": "验证码", "code_hint": "已发送 6 位数字，5 分钟内有效", "go_on": "继续",
        "another_number": "换一个号码", "choose": "选择套餐", "a_step": "每份", "per_month_zh": "/月",
        "first_month": "首月", "choose_this": "选择", "confirm": "确认订购", "on_phone_bill": "费用计入话费账单，随时可取消。",
        "order_for": "以 {price} 订购", "back": "返回", "ordered": "订购成功", "your_key": "您的密钥", "key_once": "密钥只显示这一次，请立即保存。",
        "key_again": "订购已完成。密钥只显示一次；如需新的密钥，请再创建一个。", "new_key": "创建新密钥",
        "set_up": "客户端设置", "works_with": "把地址和密钥填入任何兼容 OpenAI 或 Anthropic 的客户端即可。",
        "left": "剩余", "of": "共", "until": "有效期至", "no_expiry": "长期有效", "nothing_yet": "还没有套餐。", "order_now": "去订购",
        "forecast_ends": "按近 7 天用量，预计 {day} 用完。", "forecast_lasts": "按近 7 天用量，足够用到期末。", "forecast_none": "近 7 天没有用量。",
        "days": "每日用量", "last_requests": "最近请求", "when": "时间", "model": "模型", "tokens": "词元", "charged": "扣费", "state": "状态",
        "complete": "完成", "interrupted": "中断", "no_requests": "还没有请求。",
        "so_far": "未出账", "bills": "历史账单", "amount": "金额", "what": "项目", "pdf": "下载 PDF", "due": "缴费截止", "to_pay": "待缴",
        "paid": "已结清", "total": "合计", "no_bills": "还没有账单。", "nothing_so_far": "本期没有费用。",
        "spending": "消费控制", "spent_of": "本月随用随付已用 {spent}，上限 {cap}", "cap": "每月上限（元）", "lock": "锁定消费", "unlock": "解除锁定",
        "locked": "消费已锁定：不会再购买随用随付。", "spill_on": "套餐用完后继续随用随付", "spill_off": "套餐用完后停止",
        "spill_is_on": "套餐用完后自动随用随付。", "spill_is_off": "套餐用完后不会产生额外费用。", "save": "保存",
        "windows": "任意 {hours} 小时",
    },
    "en": {
        "order": "Order", "usage": "Usage", "bill": "Bill", "other_language": "中文", "sign_out": "Sign out",
        "privacy": "Privacy", "terms": "Terms of service", "agrees": "By going on you agree to the",
        "skip": "Skip to content", "menu": "Menu",
        "sign_in": "Sign in or register", "identifier": "Phone number or broadband account", "identifier_hint": "such as 138 0000 0001",
        "send_code": "Send a code", "code": "Code", "code_hint": "Six digits were sent; they are valid for five minutes", "go_on": "Go on",
        "another_number": "Another number", "choose": "Choose a plan", "a_step": "a step", "per_month_zh": "/month",
        "first_month": "first month", "choose_this": "Choose", "confirm": "Confirm the order", "on_phone_bill": "It comes on the phone bill. You can cancel at any time.",
        "order_for": "Order for {price}", "back": "Back", "ordered": "Ordered", "your_key": "Your key", "key_once": "The key is shown this once: keep it now.",
        "key_again": "The order is done. A key is shown once; make another one if you need it.", "new_key": "Make a new key",
        "set_up": "Client set-up", "works_with": "Put the address and the key into any client for OpenAI or Anthropic.",
        "left": "left", "of": "of", "until": "until", "no_expiry": "no expiry", "nothing_yet": "There is no plan yet.", "order_now": "Order one",
        "forecast_ends": "At the pace of the last 7 days it lasts until {day}.", "forecast_lasts": "At the pace of the last 7 days it lasts to the end.", "forecast_none": "Nothing was used in the last 7 days.",
        "days": "Day by day", "last_requests": "Last requests", "when": "When", "model": "Model", "tokens": "Tokens", "charged": "Charged", "state": "State",
        "complete": "complete", "interrupted": "interrupted", "no_requests": "No requests yet.",
        "so_far": "Not billed yet", "bills": "Bills", "amount": "Amount", "what": "What", "pdf": "PDF", "due": "Due", "to_pay": "To pay",
        "paid": "paid", "total": "Total", "no_bills": "No bills yet.", "nothing_so_far": "Nothing so far.",
        "spending": "Spending", "spent_of": "Pay as you go this month: {spent} of {cap}", "cap": "Monthly cap (yuan)", "lock": "Lock spending", "unlock": "Unlock spending",
        "locked": "Spending is locked: no pay-as-you-go is bought.", "spill_on": "Go on with pay-as-you-go when the plan is used up", "spill_off": "Stop when the plan is used up",
        "spill_is_on": "When the plan is used up, pay-as-you-go goes on.", "spill_is_off": "When the plan is used up, nothing more is charged.", "save": "Save",
        "windows": "in any {hours} h",
    },
}  # fmt: skip

# What was refused, in words for people; anything else is shown as it is said.
REFUSALS_ZH: Final = {
    "CodeWrong": "验证码错误或已过期，请重新获取。",
    "TooManyCodes": "验证码获取过于频繁，请稍后再试。",
    "Invalid": "输入有误，请检查后重试。",
    "OfferingNotActive": "该套餐目前不可订购。",
    "OfferingNotFound": "没有这个套餐。",
    "NotEligible": "您暂不符合订购条件。",
    "SubscriberNotActive": "账户有欠费或已停用，请先缴费。",
    "CapBelowSpent": "上限不能低于本月已产生的费用。",
    "KeyReused": "请勿重复提交不同的订单。",
    "Unavailable": "服务暂时不可用，请稍后再试。",
    "NotAllowed": "没有权限。",
    "ConsentNeeded": "您尚未同意或已撤回服务条款，请先在“隐私与个人信息”页面确认。",
    "ConsentTextChanged": "文本已更新，请重新阅读后确认。",
    "RealNameNeeded": "请先完成实名认证。",
    "RealNameRefused": "实名认证暂不可用，请明天再试或联系客服。",
}
